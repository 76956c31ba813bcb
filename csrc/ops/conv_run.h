// One call of a convolution through the GEMM kernels: which rows its tasks read in place, which
// they gather.
#pragma once

#include <vector>

#include "ops/image_walk.h"
#include "ops/row_runs.h"

namespace octavo {

// Outputs that are not one dense image: those of transposed convolution, which take every so many
// pixels of it.
struct ScatteredOutput {
  int32_t groups;                   // packed groups that read the same group of input channels
  ptrdiff_t batch_stride;           // bytes
  std::array<ptrdiff_t, 3> stride;  // bytes; the last is GemmCall::out_stride
  const ptrdiff_t* group_offset;    // [packed groups] bytes from a pixel's place to its channels
};

// What the tasks of one call share. The walk, the image and the geometry outlive it.
class ConvRun {
 public:
  // Memory that the tasks share, from call_scratch().
  static size_t shared_bytes(const ConvGeometry& geometry) {
    return 2 * geometry.taps() * sizeof(ptrdiff_t);
  }

  ConvRun(const GemmCall& call, const WindowWalk& walk, const ImageView& x,
          const ConvGeometry& geometry, int32_t groups, uint8_t* shared,
          const ScatteredOutput* scattered = nullptr);

  // Output pixels are cut into blocks of equal size, whose gathered rows stay in the L2 cache while
  // the panels pass by.
  int64_t block_rows() const { return block_rows_; }
  int64_t blocks() const { return ceil_div(walk_.pixels(), block_rows_); }

  // One task: the panels for the output pixels of a block. Where outputs are scattered, the panels
  // are those of groups that read the same input channels.
  void operator()(int64_t block, const PanelRange& panels) const;

 private:
  void plan_gathering(ptrdiff_t* shared);
  void plan_skipping();
  void plan_reading_in_place(int32_t groups, ptrdiff_t* shared);
  void collect_runs(int64_t begin, int64_t end, int32_t group, uint8_t* gathered,
                    std::vector<RowRun>& runs) const;
  struct Rows {
    int32_t count;
    bool in_place;
  };
  Rows next_rows(const OutputPixel& pixel, int64_t left) const;
  int64_t rows_alike(const OutputPixel& pixel) const;
  bool meets_lines(const OutputPixel& pixel) const;
  WindowWalk::Rows kernel_rows(const OutputPixel& pixel) const;
  bool reads_in_place(const OutputPixel& first, int32_t rows) const;
  void gather(const OutputPixel& pixel, int64_t group_offset, uint8_t* to) const;
  void copy_or_pad(const uint8_t* from, int32_t bytes, uint8_t* to) const;
  void place_rows(int64_t begin, int64_t end, ScatteredRows::Row* rows) const;

  const GemmCall& call_;
  const WindowWalk& walk_;
  const ImageView& x_;
  const ConvGeometry& geometry_;
  int32_t tap_k_;                  // input channels of a group
  int32_t window_taps_;            // taps of the window that make one packed tap
  int32_t packed_k_, packed_tap_;  // bytes of a packed tap, without and with padding
  bool joins_rows_, pointwise_;    // the taps of a kernel row are neighbours in memory
  const uint8_t* image_end_;

  // Reading in place.
  bool in_place_, cuts_at_borders_;
  int32_t in_place_taps_, in_place_k_;
  const ptrdiff_t* in_place_tap_;
  std::array<int64_t, 2> inside_;  // output columns whose windows lie inside the image's width

  // Gathered rows hold the packed taps one behind another, padded as the weights are: one long tap.
  const ptrdiff_t* place_;  // [taps of the window] where they lie in a gathered row
  bool gathers_rows_;       // kernel rows can be copied whole
  ptrdiff_t gathered_tap_ = 0;
  int64_t pitch_, block_rows_;
  bool copies_wide_;

  // Output lines at the image's upper and lower border leave out the kernel rows that lie in the
  // padding, where the zero point is what kernels take for 0.
  bool skips_rows_;
  std::array<int64_t, 2> inside_lines_;  // those that leave out nothing
  int32_t row_groups_;                   // k groups of the packed weight for a kernel row
  const ScatteredOutput* scattered_;
};

}  // namespace octavo
