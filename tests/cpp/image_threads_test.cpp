// Pooling, upsampling and concatenation give the same bits on any number of threads.
#include <omp.h>

#include "image_case.h"
#include "ops/cat.h"
#include "ops/pooling.h"
#include "ops/upsample.h"

namespace octavo::testing {
namespace {

// Calls run(out) with 1 to 4 threads.
template <typename Run>
void expect_equal_on_threads(const std::string& what, size_t bytes, Run run) {
  const int before = omp_get_max_threads();
  std::vector<uint8_t> one(bytes);
  omp_set_num_threads(1);
  run(one.data());
  for (int threads = 2; threads <= 4; ++threads) {
    std::vector<uint8_t> many(bytes);
    omp_set_num_threads(threads);
    run(many.data());
    EXPECT_EQ(first_difference(many.data(), one.data(), bytes), "")
        << what << " on " << threads << " threads";
  }
  omp_set_num_threads(before);
}

// Shapes whose tasks are rows, parts of rows, and parts of the channels.
const std::vector<std::array<int64_t, 5>> kShapes = {
    {2, 1, 40, 33, 70}, {1, 1, 1, 3000, 65}, {1, 1, 28, 28, 1000}, {1, 3, 20, 17, 130}};

std::string shape_text(const std::array<int64_t, 5>& s) {
  return std::to_string(s[0]) + "x" + size_text({s[1], s[2], s[3]}) + "x" + std::to_string(s[4]);
}

TEST(ImageThreadsTest, Pooling) {
  Random random(1);
  for (const auto& s : kShapes) {
    for (const bool is_signed : {false, true}) {
      const int32_t channels = static_cast<int32_t>(s[4]);
      const ImageCase image(random, s[0], {s[1], s[2], s[3]}, channels, is_signed);
      for (const int32_t kernel : {3, 5}) {
        for (const int32_t stride : {1, 2}) {
          PoolGeometry g;
          int64_t bytes = s[0] * channels;
          for (int d = 0; d < 3; ++d) {
            if (image.view.size[d] < kernel) continue;
            g.kernel[d] = kernel;
            g.stride[d] = stride;
            g.padding[d] = kernel / 2;
          }
          for (int d = 0; d < 3; ++d) bytes *= g.output_size(d, image.view.size[d]);
          expect_equal_on_threads("max_pool " + shape_text(s), bytes,
                                  [&](void* out) { max_pool(image.view, g, out); });
          expect_equal_on_threads("avg_pool " + shape_text(s), bytes,
                                  [&](void* out) { avg_pool(image.view, 9, g, {}, out); });
        }
      }
      for (const int64_t to : {1, 3}) {
        const std::array<int64_t, 3> size{1, to, to};
        const int64_t bytes = s[0] * to * to * channels;
        expect_equal_on_threads("adaptive_avg_pool " + shape_text(s), bytes,
                                [&](void* out) { adaptive_avg_pool(image.view, 9, size, out); });
        expect_equal_on_threads("adaptive_max_pool " + shape_text(s), bytes,
                                [&](void* out) { adaptive_max_pool(image.view, size, out); });
      }
    }
  }
}

TEST(ImageThreadsTest, Upsampling) {
  Random random(2);
  for (const auto& s : kShapes) {
    const int32_t channels = static_cast<int32_t>(s[4]);
    const ImageCase image(random, s[0], {s[1], s[2], s[3]}, channels, random.chance(2));
    ResizeGeometry g;
    int64_t bytes = s[0] * channels;
    for (int d = 0; d < 3; ++d) {
      g.size[d] = image.view.size[d] * 2 - 1;
      bytes *= g.size[d];
    }
    expect_equal_on_threads("upsample_nearest " + shape_text(s), bytes,
                            [&](void* out) { upsample_nearest(image.view, g, false, out); });
    expect_equal_on_threads("upsample_linear " + shape_text(s), bytes,
                            [&](void* out) { upsample_linear(image.view, 9, g, true, out); });
  }
}

TEST(ImageThreadsTest, Concatenation) {
  Random random(3);
  for (const int64_t row_bytes : {5, 64, 100000}) {
    const int64_t rows = 500000 / row_bytes;
    std::vector<uint8_t> a(rows * row_bytes), b(a.size());
    random.fill(a.data(), a.size());
    random.fill(b.data(), b.size());
    const CatPart parts[] = {{a.data(), row_bytes, row_bytes, {0.1f, 3}},
                             {b.data(), row_bytes, row_bytes, {0.2f, 4}}};
    expect_equal_on_threads("cat", 2 * a.size(), [&](void* out) {
      cat(parts, 2, rows, false, {0.1f, 3}, out, 2 * row_bytes);
    });
  }
}

}  // namespace
}  // namespace octavo::testing
