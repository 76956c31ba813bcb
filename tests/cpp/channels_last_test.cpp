// to_channels_last() and transpose_bytes(): every size of block and tail, between guard pages.
#include "ops/channels_last.h"

#include "guard_buffer.h"
#include "support.h"

namespace octavo::testing {
namespace {

TEST(ChannelsLastTest, MovesEveryByteAndNoOther) {
  GuardBuffer in(1 << 17), to(1 << 17);
  Random random(31);
  for (const int32_t channels : {1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 31, 40, 64}) {
    for (const int64_t pixels : {1, 2, 7, 8, 15, 16, 17, 33, 255, 256, 257, 600}) {
      const int64_t batch = 1 + pixels % 3, size = batch * channels * pixels;
      const Side side = random.chance(2) ? Side::kBegin : Side::kEnd;
      uint8_t* from = in.place(size, side);
      uint8_t* out = to.place(size, side);
      random.fill(from, size);
      to_channels_last(from, batch, channels, pixels, out);
      for (int64_t i = 0; i < size; ++i) {
        const int64_t b = i / (channels * pixels), p = i / channels % pixels, c = i % channels;
        ASSERT_EQ(out[i], from[(b * channels + c) * pixels + p])
            << channels << " channels, " << pixels << " pixels, byte " << i;
      }
      ASSERT_TRUE(in.margin_intact() && to.margin_intact());
    }
  }
}

TEST(ChannelsLastTest, KeepsToItsColumns) {
  Random random(32);
  const int32_t channels = 27, total = 70;
  const int64_t pixels = 41, pitch = 50;
  std::vector<uint8_t> from(channels * pitch), out(pixels * total, 0xEE);
  random.fill(from.data(), from.size());
  transpose_bytes(from.data(), pitch, channels, pixels, out.data() + 20, total);
  for (int64_t p = 0; p < pixels; ++p) {
    for (int32_t c = 0; c < total; ++c) {
      const bool inside = c >= 20 && c < 20 + channels;
      ASSERT_EQ(out[p * total + c], inside ? from[(c - 20) * pitch + p] : 0xEE);
    }
  }
}

}  // namespace
}  // namespace octavo::testing
