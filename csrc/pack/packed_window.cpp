#include "pack/packed_window.h"

#include <algorithm>

namespace octavo {
namespace {

constexpr int32_t kLoadBytes = 16;

// Groups of n outputs and k inputs that one block can hold.
int32_t groups_together(int32_t n, int32_t k) {
  int32_t groups = std::max(1, kGroupedLanes / n);
  // The bytes of one chunk, from the first group's to the last's.
  while (groups > 1 && (groups - 1) * k + std::min(k, 4) > kLoadBytes) --groups;
  return groups;
}

}  // namespace

bool PackedWindow::fits(int32_t n, int32_t k) {
  return n <= kGroupedLanes && k <= 4 * kGroupedChunks;
}

PackedWindow::PackedWindow(const WeightShape& shape)
    : shape_(shape),
      kind_(shape.n == 1 && shape.k == 1 ? WindowKind::kDepthwise : WindowKind::kGrouped) {
  if (kind_ == WindowKind::kDepthwise) {
    units_ = shape.groups;
    data_ = AlignedBuffer::zeroed(round_up(shape.groups, kWindowSplit) * int64_t{shape.taps});
    return;
  }
  chunks_ = static_cast<int32_t>(ceil_div(shape.k, 4));
  groups_together_ = groups_together(shape.n, shape.k);
  units_ = static_cast<int32_t>(ceil_div(shape.groups, groups_together_));
  data_ = AlignedBuffer::zeroed(units_ * grouped_record_bytes(shape.taps, chunks_));
  describe_blocks();
}

GroupedBlock& PackedWindow::block(int32_t i) const {
  return *reinterpret_cast<GroupedBlock*>(data_.data() +
                                          i * grouped_record_bytes(shape_.taps, chunks_));
}

void PackedWindow::describe_blocks() {
  const int32_t in_channels = shape_.groups * shape_.k;
  for (int32_t b = 0; b < units_; ++b) {
    GroupedBlock& record = block(b);
    const int32_t first = b * groups_together_;
    const int32_t groups = std::min(groups_together_, shape_.groups - first);
    record.first = first * shape_.n;
    record.count = groups * shape_.n;
    auto* pick = reinterpret_cast<uint8_t*>(&record + 1);
    for (int32_t chunk = 0; chunk < chunks_; ++chunk) {
      const int32_t wanted = first * shape_.k + 4 * chunk;
      record.load[chunk] = std::max(0, std::min(wanted, in_channels - kLoadBytes));
      for (int32_t lane = 0; lane < kGroupedLanes; ++lane) {
        for (int32_t i = 0; i < 4; ++i, ++pick) {
          const bool valid = lane < record.count && 4 * chunk + i < shape_.k;
          const int32_t from =
              (first + lane / shape_.n) * shape_.k + 4 * chunk + i - record.load[chunk];
          *pick = valid ? static_cast<uint8_t>(from) : 255;
        }
      }
    }
  }
}

template <typename Visit>
void PackedWindow::for_each_weight(Visit visit) const {
  const int64_t record =
      kind_ == WindowKind::kGrouped ? grouped_record_bytes(shape_.taps, chunks_) : int64_t{0};
  for (int32_t c = 0; c < shape_.groups * shape_.n; ++c) {
    const int64_t column = c * shape_.depth();
    const int32_t block_channels = groups_together_ * shape_.n;
    for (int32_t t = 0; t < shape_.taps; ++t) {
      if (kind_ == WindowKind::kDepthwise) {
        visit((int64_t{c / kDepthwiseBlock} * shape_.taps + t) * kDepthwiseBlock +
                  c % kDepthwiseBlock,
              column + t);
        continue;
      }
      const int64_t weights = c / block_channels * record + 64 + chunks_ * 4 * kGroupedLanes;
      for (int32_t k = 0; k < shape_.k; ++k) {
        const int64_t group = int64_t{t} * chunks_ + k / 4;
        visit(weights + (group * kGroupedLanes + c % block_channels) * 4 + k % 4,
              column + int64_t{t} * shape_.k + k);
      }
    }
  }
}

std::shared_ptr<const PackedWindow> PackedWindow::pack(const int8_t* weights,
                                                       const WeightShape& shape) {
  check_weight_shape(shape);
  std::shared_ptr<PackedWindow> packed(new PackedWindow(shape));
  int8_t* data = packed->data_.as<int8_t>();
  packed->for_each_weight([&](int64_t to, int64_t from) { data[to] = weights[from]; });
  return packed;
}

void PackedWindow::unpack(int8_t* weights) const {
  const int8_t* data = data_.as<int8_t>();
  for_each_weight([&](int64_t from, int64_t to) { weights[to] = data[from]; });
}

}  // namespace octavo
