#include "gemm_case.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "abi/half.h"
#include "abi/out_kind.h"
#include "abi/requantize.h"
#include "pack/packed_weight.h"

namespace octavo::testing {
namespace {

constexpr size_t kMegabyte = size_t{1} << 20;
constexpr int32_t kMaxRows = 64;

// One guarded buffer for each array; each case places its data anew.
struct Memory {
  GuardBuffer a{8 * kMegabyte}, b{16 * kMegabyte}, tap{4096}, residual{kMegabyte};
  GuardBuffer acc_init{8192}, mult{8192}, bias{8192}, col_sum{8192}, w_zero{8192};
  GuardBuffer row_scale{4096}, row_zero{4096}, row_sum{4096};
  GuardRows rows{kMaxRows};
};

Memory& memory() {
  static Memory once;
  return once;
}

uint8_t corner_byte(Random& random, bool is_signed) {
  if (is_signed) return random.chance(2) ? 0x80 : 0x7f;
  return random.chance(2) ? 0 : 255;
}

}  // namespace

GemmProblem::GemmProblem(Random& random, int32_t rows_, int32_t columns_, int32_t taps_, int32_t k_,
                         bool a_signed_, Values values)
    : rows(rows_), columns(columns_), taps(taps_), k(k_), a_signed(a_signed_) {
  isolated =
      taps == 1 && k <= static_cast<int32_t>(page_size()) && rows <= kMaxRows && random.chance(2);
  lay_out(random);
  fill(random, values);
}

// One tap: rows at any stride. More: a window over an image whose rows overlap, in shuffled tap
// order, with offsets of both signs.
void GemmProblem::lay_out(Random& random) {
  const int32_t pitch = k + (random.chance(2) ? 0 : random.integer(1, 37));
  if (taps == 1) {
    a_stride_ = isolated ? GuardRows::stride() : pitch;
    tap_offsets_ = {0};
  } else {
    const int32_t stride = random.integer(1, 2), dilation = random.integer(1, 2);
    const int32_t side = static_cast<int32_t>(std::lround(std::sqrt(taps)));
    const ptrdiff_t width = ptrdiff_t{stride} * (rows - 1) + dilation * (side - 1) + 1;
    a_stride_ = ptrdiff_t{stride} * pitch;
    for (int32_t t = 0; t < taps; ++t) {
      const ptrdiff_t pixel = (t / side) * dilation * width + (t % side) * dilation;
      tap_offsets_.push_back(pixel * pitch);
    }
    for (int32_t t = taps - 1; t > 0; --t)
      std::swap(tap_offsets_[t], tap_offsets_[random.integer(0, t)]);
  }
  const ptrdiff_t furthest = *std::max_element(tap_offsets_.begin(), tap_offsets_.end());
  memory_.resize(isolated ? size_t(rows) * k : (rows - 1) * a_stride_ + furthest + k);
  origin_ = random.chance(2) ? 0 : furthest / 2;
  for (ptrdiff_t& offset : tap_offsets_) offset -= origin_;
}

void GemmProblem::fill(Random& random, Values values) {
  const bool corners = values == Values::kCorners;
  for (uint8_t& a : memory_) a = corners ? corner_byte(random, a_signed) : random.byte();
  w.resize(size_t(columns) * taps * k);
  for (int8_t& x : w) x = static_cast<int8_t>(corners ? corner_byte(random, true) : random.byte());

  const ptrdiff_t dense_stride = isolated ? k : a_stride_;
  const uint8_t* first = memory_.data() + origin_;
  raw.resize(size_t(rows) * columns);
  ref::accumulate(
      {first, a_signed, dense_stride, tap_offsets_.data(), taps, k, w.data(), rows, columns},
      raw.data());
  row_sum.resize(rows);
  for (int32_t r = 0; r < rows; ++r) {
    for (ptrdiff_t offset : tap_offsets_) {
      const ref::Bytes bytes{first + r * dense_stride + offset, a_signed};
      for (int32_t i = 0; i < k; ++i) row_sum[r] += bytes.at(i);
    }
  }
  col_sum.resize(columns);
  for (int32_t c = 0; c < columns; ++c) {
    for (int32_t i = 0; i < taps * k; ++i) col_sum[c] += w[size_t(c) * taps * k + i];
  }
}

void GemmProblem::place(Side side) {
  ptrdiff_t* tap = memory().tap.place_array<ptrdiff_t>(tap_offsets_.size(), side);
  std::copy(tap_offsets_.begin(), tap_offsets_.end(), tap);
  tap_ = tap;
  if (!isolated) {
    uint8_t* a = memory().a.place(memory_.size(), side);
    std::copy(memory_.begin(), memory_.end(), a);
    a_ = a + origin_;
    return;
  }
  for (int32_t r = 0; r < rows; ++r) {
    std::copy_n(memory_.data() + size_t(r) * k, k, memory().rows.row(r, k, side));
  }
  a_ = memory().rows.row(0, k, side);
}

PanelCase::PanelCase(Random& random, const GemmProblem& problem, PackFormat format, int32_t column,
                     int32_t n, Side side) {
  const int64_t depth = int64_t{problem.taps} * problem.k;
  std::vector<int8_t> plain((column + n) * depth);
  random.fill(plain.data(), column * depth);
  std::copy_n(problem.w.data(), n * depth, plain.data() + column * depth);
  const auto packed =
      PackedWeight::pack(plain.data(), {1, column + n, problem.taps, problem.k}, format);
  const int64_t panel = packed->panel_stride(0) * (packed->padded_k() / format.kr) * problem.taps;
  uint8_t* copy = memory().b.place(panel + PackedWeight::kReadAhead, side, kAlignment);
  std::copy_n(reinterpret_cast<const uint8_t*>(packed->panel(0, 0)), panel, copy);
  // What follows a panel in memory is another panel, so its values must not matter.
  random.fill(copy + panel, PackedWeight::kReadAhead);
  b = reinterpret_cast<const int8_t*>(copy) + column * format.kr;
  b_stride = packed->panel_stride(0);
}

std::string EpilogueChoice::describe() const {
  return "row_scale=" + std::to_string(row_scale) + " row_zero=" + std::to_string(row_zero) +
         " w_zero=" + std::to_string(w_zero) + " residual=" + std::to_string(residual) +
         " n0=" + std::to_string(n0) + " m0=" + std::to_string(m0) +
         " a_zero=" + std::to_string(a_zero) + (side == Side::kEnd ? " guard=end" : " guard=begin");
}

EpilogueChoice choose_epilogue(Random& random, uint32_t index, bool a_signed) {
  static const std::vector<int32_t> kZeros = {0, 1, 127, 128, 255};
  static const std::vector<int32_t> kColumns = {0, 64, 5, 61, 16};
  EpilogueChoice choice{};
  choice.side = index % 2 ? Side::kEnd : Side::kBegin;
  const uint32_t form = index / 2 % 8;
  choice.row_scale = form == 1 || form == 2 || form == 4;
  choice.row_zero = form == 2 || form == 4;
  choice.w_zero = form == 3 || form == 4;
  choice.residual = static_cast<int32_t>(index / 2 % 3);
  choice.extreme_rows = choice.row_scale && random.chance(4);
  choice.a_zero = random.pick(kZeros) - (a_signed ? 128 : 0);
  // Against the leading guard page the arrays start where the tile does.
  if (choice.side == Side::kEnd) {
    choice.n0 = random.pick(kColumns);
    choice.m0 = random.integer(0, 3);
  }
  return choice;
}

EpilogueCase::EpilogueCase(Random& random, const GemmProblem& problem, int32_t n,
                           const int32_t (&a_offset)[2], const EpilogueChoice& choice)
    : n_(n), choice_(choice) {
  const Side side = choice.side;
  const int32_t columns = static_cast<int32_t>(round_up(choice.n0 + n, kChannelPad));
  const int32_t rows = choice.m0 + problem.rows;
  const int32_t offset = a_offset[problem.a_signed];
  const auto ints = [&](GuardBuffer& buffer, int32_t count) {
    int32_t* data = buffer.place_array<int32_t>(count, side);
    random.fill(data, count * sizeof(int32_t));
    return data;
  };
  const auto floats = [&](GuardBuffer& buffer, int32_t count) {
    float* data = buffer.place_array<float>(count, side);
    for (int32_t i = 0; i < count; ++i) data[i] = random.real(-8.0f, 8.0f);
    return data;
  };

  int32_t* acc_init = ints(memory().acc_init, columns);
  int32_t* col_sum = ints(memory().col_sum, columns);
  reference_acc_init_.assign(columns, 0);
  const int32_t a_zero = choice.row_zero ? 0 : choice.a_zero;
  for (int32_t c = 0; c < n; ++c) {
    const int64_t sum = problem.col_sum[c];
    reference_acc_init_[choice.n0 + c] = static_cast<int32_t>(-a_zero * sum);
    acc_init[choice.n0 + c] = static_cast<int32_t>(-(a_zero + offset) * sum);
    col_sum[choice.n0 + c] = static_cast<int32_t>(sum);
  }
  kernel_.acc_init = acc_init;
  kernel_.col_sum = col_sum;
  kernel_.mult = floats(memory().mult, columns);
  kernel_.bias = floats(memory().bias, columns);

  if (choice.row_scale) {
    float* scale = floats(memory().row_scale, rows);
    const float inf = std::numeric_limits<float>::infinity();
    const std::vector<float> extremes = {inf, -inf, std::nanf(""), 0.0f};
    for (int32_t r = 0; r < rows; ++r) {
      scale[r] = choice.extreme_rows && random.chance(2) ? random.pick(extremes)
                                                         : std::ldexp(1.0f, random.integer(-1, 1));
      if (random.chance(3)) scale[r] = random.real(0.1f, 3.0f);
    }
    kernel_.row_scale = scale;
  }
  std::vector<int32_t> zeros(rows, choice.a_zero);
  if (choice.row_zero) {
    int32_t* row_zero = ints(memory().row_zero, rows);
    for (int32_t r = 0; r < rows; ++r) {
      zeros[r] = random.integer(0, 255) - (problem.a_signed ? 128 : 0);
      row_zero[r] = zeros[r];
    }
    kernel_.row_zero = row_zero;
  }
  if (choice.w_zero) {
    int32_t* w_zero = ints(memory().w_zero, columns);
    for (int32_t c = 0; c < n; ++c) w_zero[choice.n0 + c] = random.integer(-128, 127);
    int32_t* row_sum = ints(memory().row_sum, rows);
    const int64_t depth = int64_t{problem.taps} * problem.k;
    for (int32_t r = 0; r < problem.rows; ++r) {
      row_sum[choice.m0 + r] =
          static_cast<int32_t>(problem.row_sum[r] - zeros[choice.m0 + r] * depth);
    }
    kernel_.w_zero = w_zero;
    kernel_.row_sum = row_sum;
  }
  if (choice.residual) {
    const ptrdiff_t stride = choice.n0 + n + random.integer(0, 9);
    const size_t size = (rows - 1) * stride + choice.n0 + n;
    uint8_t* residual = memory().residual.place(size, side);
    random.fill(residual, size);
    residual_ = residual;
    kernel_.add_stride = stride;
    kernel_.add_scale = random.chance(2) ? 0.5f : random.real(0.01f, 2.0f);
    kernel_.add_signed = choice.residual == 2;
    kernel_.add_zero = random.integer(0, 255) - (kernel_.add_signed ? 128 : 0);
  }
  reference_ = kernel_;
  reference_.acc_init = reference_acc_init_.data();
  choose_scales(random, problem);
}

int32_t EpilogueCase::accumulator(const GemmProblem& problem, int32_t r, int32_t c) const {
  const int32_t n = choice_.n0 + c;
  const int64_t sum = problem.raw[size_t(r) * problem.columns + c] + reference_.acc_init[n];
  return correct_accumulator(static_cast<uint32_t>(sum), reference_, choice_.m0 + r, n);
}

// Column by column: exact ties on one row, an ordinary spread that passes both clamps, mostly
// clamped, or all over int32. Some cases have columns that leave int32, NaN among their results.
void EpilogueCase::choose_scales(Random& random, const GemmProblem& problem) {
  float* mult = const_cast<float*>(kernel_.mult) + choice_.n0;
  float* bias = const_cast<float*>(kernel_.bias) + choice_.n0;
  const bool leaves_int32 = random.chance(4);
  kernel_.stays_int32 = !leaves_int32 && random.chance(4) == 0;
  for (int32_t c = 0; c < n_; ++c) {
    int64_t largest = 1;
    for (int32_t r = 0; r < problem.rows; ++r) {
      largest = std::max<int64_t>(largest, std::abs(int64_t{accumulator(problem, r, c)}));
    }
    const float size = static_cast<float>(largest);
    const int32_t mode = random.integer(0, 4);
    if (leaves_int32 && random.chance(3)) {
      const float inf = std::numeric_limits<float>::infinity();
      mult[c] = random.chance(4) ? inf : random.real(1e10f, 1e30f) / size;
      bias[c] = random.chance(4) ? random.pick(std::vector<float>{inf, -inf, std::nanf("")}) : 0.0f;
    } else if (mode == 4) {
      mult[c] = random.real(1e8f, 1e9f) / size;
      bias[c] = 0.0f;
    } else if (mode < 2) {
      const int32_t shift = std::max(1, static_cast<int32_t>(std::ceil(std::log2(size / 150.0f))));
      const float half_steps = static_cast<float>(random.integer(-60, 60)) + 0.5f;
      const int32_t r = random.integer(0, problem.rows - 1);
      mult[c] = std::ldexp(1.0f, -shift);
      bias[c] = std::ldexp(half_steps, shift) - static_cast<float>(accumulator(problem, r, c));
    } else if (mode == 2) {
      mult[c] = random.real(50.0f, 400.0f) / size;
      bias[c] = random.real(-0.3f, 0.3f) * size;
    } else {
      mult[c] = random.real(1e3f, 1e5f) / size;
      bias[c] = 0.0f;
    }
  }
}

void EpilogueCase::set_kind(Random& random, OutKind kind) {
  const float inf = std::numeric_limits<float>::infinity();
  for (Epilogue* e : {&kernel_, &reference_}) {
    e->add = nullptr;
    e->out_zero = 0;
    e->lo = -inf;
    e->hi = inf;
  }
  if (is_float(kind)) {
    const int32_t form = random.integer(0, 2);
    const float lo = form == 0 ? -inf : 0.0f, hi = form == 2 ? 6.0f : inf;
    for (Epilogue* e : {&kernel_, &reference_}) {
      e->lo = lo;
      e->hi = hi;
    }
  } else if (kind != OutKind::kI32) {
    static const std::vector<int32_t> kZeros = {0, 1, 127, 128, 255};
    const int32_t qmin = kind == OutKind::kS8 ? -128 : 0;
    const int32_t zero = random.pick(kZeros) + qmin;
    const int32_t form = random.integer(0, 3);
    const int32_t lo = form == 1 ? 0 : qmin - zero;
    const int32_t hi = form == 2 ? std::min(60, qmin + 255 - zero) : qmin + 255 - zero;
    for (Epilogue* e : {&kernel_, &reference_}) {
      e->add = residual_;
      e->out_zero = zero;
      e->lo = static_cast<float>(std::min(lo, hi));
      e->hi = static_cast<float>(hi);
    }
  }
}

void EpilogueCase::count_hits(const GemmProblem& problem, Hits& hits) const {
  const Epilogue& e = reference_;
  if (e.add || e.row_scale) return;  // the plain form is enough for counting
  for (int32_t r = 0; r < problem.rows; ++r) {
    for (int32_t c = 0; c < n_; ++c) {
      const int32_t n = choice_.n0 + c;
      const float x = (static_cast<float>(accumulator(problem, r, c)) + e.bias[n]) * e.mult[n];
      hits.low += x <= e.lo;
      hits.high += x >= e.hi;
      hits.tie += x > e.lo && x < e.hi && std::abs(x - std::trunc(x)) == 0.5f;
    }
  }
}

namespace {

float float_output(OutKind kind, const void* data, int32_t i) {
  if (kind == OutKind::kF32) return static_cast<const float*>(data)[i];
  const uint16_t half = static_cast<const uint16_t*>(data)[i];
  return kind == OutKind::kBF16 ? bf16_to_float(half) : f16_to_float(half);
}

}  // namespace

bool same_values(OutKind kind, const void* got, const void* expected, int32_t n) {
  if (std::memcmp(got, expected, n * kind_size(kind)) == 0) return true;
  if (!is_float(kind)) return false;
  for (int32_t i = 0; i < n; ++i) {
    const float a = float_output(kind, got, i), b = float_output(kind, expected, i);
    const bool both_nan = std::isnan(a) && std::isnan(b);
    if (!both_nan && std::memcmp(&a, &b, sizeof a) != 0) return false;
  }
  return true;
}

}  // namespace octavo::testing
