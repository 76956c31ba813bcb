#include "ops/embedding.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <stdexcept>
#include <string>

#include "cpu/dispatch.h"
#include "ops/row_runs.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

constexpr int64_t kTaskElements = 1 << 14;  // of rows read, on average
// A table without columns has no memory, but kernels still find its rows.
constexpr uint8_t kNoColumns = 0;

int64_t integer(const void* p, bool is_64_bit, int64_t i) {
  return is_64_bit ? static_cast<const int64_t*>(p)[i] : static_cast<const int32_t*>(p)[i];
}

void check_offsets(const EmbeddingArgs& args) {
  int64_t before = 0;
  for (int64_t i = 0; i < args.offset_count; ++i) {
    const int64_t offset = integer(args.offsets, args.is_64_bit, i);
    if (i == 0 && offset != 0) {
      throw std::invalid_argument("offsets must begin with 0, got " + std::to_string(offset));
    }
    if (offset < before || offset > args.count) {
      throw std::invalid_argument(
          "offsets must not decrease, nor exceed the number of indices, which is " +
          std::to_string(args.count) + "; got " + std::to_string(offset) + " at position " +
          std::to_string(i) + " after " + std::to_string(before));
    }
    before = offset;
  }
}

}  // namespace

void embedding_bags(const EmbeddingArgs& args, bool nibbles) {
  if (args.offsets) check_offsets(args);
  const int64_t bags = args.bag_end;
  if (bags == 0) return;
  const EmbeddingFn fn = cpu::kernels().elementwise.embedding[nibbles];
  const int64_t elements = (args.count + bags) * std::max<int64_t>(args.columns, 1);
  const int64_t tasks = std::clamp<int64_t>(elements / kTaskElements, 1, bags);
  const int64_t block = ceil_div(bags, tasks);
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> first_bad{kNone};
  parallel_for(ceil_div(bags, block), elements, [&](int64_t task) {
    EmbeddingArgs part = args;
    if (args.columns == 0) part.table = &kNoColumns;
    part.bag_begin = task * block;
    part.bag_end = std::min(bags, part.bag_begin + block);
    const int64_t bad = fn(&part);
    if (bad < 0) return;
    int64_t known = first_bad.load();
    while (bad < known && !first_bad.compare_exchange_weak(known, bad)) {
    }
  });
  const int64_t bad = first_bad.load();
  if (bad == kNone) return;
  throw std::out_of_range("index " + std::to_string(integer(args.indices, args.is_64_bit, bad)) +
                          " at position " + std::to_string(bad) +
                          " is out of range for a table of " + std::to_string(args.table_rows) +
                          " rows");
}

}  // namespace octavo
