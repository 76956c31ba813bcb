// Weights in the layouts that window kernels read (abi/kernel_abi.h: WindowArgs::w), the same for
// every ISA.
#pragma once

#include <memory>

#include "pack/packed_weight.h"

namespace octavo {

// Depthwise (n = k = 1): [channels / 16][taps][16], padded with zeros to a multiple of kWindowSplit
// channels. Small groups: GroupedBlock records, each of as many whole groups as have their inputs
// within 16 bytes of a pixel and their outputs within 16 lanes.
//
// Immutable after pack(), so threads share it freely. Never serialized.
class PackedWindow {
 public:
  // Whether groups of n outputs and k inputs go here rather than into panels for GEMM tiles.
  static bool fits(int32_t n, int32_t k);
  // Throws as PackedWeight does. The shape fits().
  static std::shared_ptr<const PackedWindow> pack(const int8_t* weights, const WeightShape& shape);
  void unpack(int8_t* weights) const;

  WindowKind kind() const { return kind_; }
  // What WindowArgs::begin and end count: channels or blocks.
  int32_t units() const { return units_; }
  int32_t chunks() const { return chunks_; }
  const void* data() const { return data_.data(); }
  int64_t bytes() const { return static_cast<int64_t>(data_.size()); }

 private:
  explicit PackedWindow(const WeightShape& shape);
  void describe_blocks();
  // Calls visit(packed byte, plain index) for each weight.
  template <typename Visit>
  void for_each_weight(Visit visit) const;
  GroupedBlock& block(int32_t i) const;

  WeightShape shape_;
  WindowKind kind_;
  int32_t units_, chunks_ = 0;
  int32_t groups_together_ = 1;  // in a block of small groups
  mutable AlignedBuffer data_;
};

}  // namespace octavo
