// The direct entry points of fake quantization and calibration: a step of a module on float32
// tensors, the gradient of one, and what observers take notice of.
#include <limits>

#include "bind/bindings.h"
#include "bind/direct.h"
#include "ops/fake_quantize.h"
#include "ops/histogram.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

// Ranges beyond it have levels that float32 cannot tell apart; Python computes them otherwise.
constexpr int64_t kMostSteps = int64_t{1} << 23;

// Runs of a channel cost a call each, 25 ns. So many, and as many as there are of this length,
// still take less time than torch's operations.
constexpr int64_t kMostRuns = 8192;
constexpr int64_t kLongRun = 4;

bool within(int32_t value, IntRange range) { return value >= range.lo && value <= range.hi; }

bool read_range(PyObject* const* args, IntRange& range) {
  return read_int32(args[0], range.lo) && read_int32(args[1], range.hi) && range.lo < range.hi &&
         int64_t{range.hi} - range.lo <= kMostSteps && range.lo <= 0 && range.hi >= 0;
}

// A number: float, or an int such as 1.
bool read_number(PyObject* object, float& value) {
  int32_t integer;
  if (read_float(object, value)) return true;
  if (!read_int32(object, integer)) return false;
  value = static_cast<float>(integer);
  return true;
}

// `axis` is None for one channel.
bool read_grid(PyObject* axis, const TensorView& x, ChannelGrid& grid) {
  grid = {1, 1, x.elements()};
  if (axis == Py_None) return true;
  int32_t d;
  if (!read_int32(axis, d)) return false;
  if (d < 0) d += x.ndim;
  if (d < 0 || d >= x.ndim) return false;
  if (x.size[d] == 1) return true;
  grid.channels = x.size[d];
  grid.inner = x.stride[d];
  grid.outer = x.elements() / (grid.channels * grid.inner);
  return grid.inner >= kLongRun || grid.outer * grid.channels <= kMostRuns;
}

// Minimum, maximum, smallest scale, averaging constant or None, range, zero point or None.
bool read_rule(PyObject* const* args, FakeQuantizeStep& step) {
  ObserveRule& rule = step.rule;
  const int64_t channels = step.grid.channels;
  step.min = static_cast<float*>(read_values(args[0], ElementType::kF32, channels));
  step.max = static_cast<float*>(read_values(args[1], ElementType::kF32, channels));
  const auto* eps = static_cast<const float*>(read_values(args[2], ElementType::kF32, 1));
  if (!step.min || !step.max || !eps || !(*eps > 0.0f)) return false;
  rule.eps = *eps;
  rule.averages = args[3] != Py_None;
  if (rule.averages && !read_number(args[3], rule.constant)) return false;
  rule.symmetric = args[6] != Py_None;
  if (rule.symmetric && !read_int32(args[6], rule.zero_point)) return false;
  return read_range(args + 4, rule.range) && rule.range.lo == step.range.lo &&
         rule.range.hi == step.range.hi && (!rule.symmetric || within(rule.zero_point, rule.range));
}

// torch refuses other zero points, and other scales have no reciprocal.
bool usable_qparams(const FakeQuantizeStep& step) {
  for (int64_t c = 0; c < step.grid.channels; ++c) {
    if (!(step.scale[c] > 0.0f) || !within(step.zero_point[c], step.range)) return false;
  }
  return true;
}

PyObject* step_result(PyObject* out, PyObject* inside, int64_t others) {
  PyObject* const result = PyTuple_New(3);
  PyObject* const count = PyLong_FromLongLong(others);
  if (!result || !count) {
    PyErr_Clear();
    Py_XDECREF(result), Py_XDECREF(count), Py_XDECREF(out), Py_XDECREF(inside);
    return nullptr;
  }
  PyTuple_SET_ITEM(result, 0, out ? out : Py_NewRef(Py_None));
  PyTuple_SET_ITEM(result, 1, inside ? inside : Py_NewRef(Py_None));
  PyTuple_SET_ITEM(result, 2, count);
  return result;
}

// A dense float32 tensor, whether to round, whether to keep what lies inside, channel axis or None,
// scale, zero point, smallest and largest level, whether to observe, and read_rule()'s arguments.
// Returns (rounded tensor or None, mask or None, number of values that were not finite).
PyObject* fake_quantize_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  TensorView x;
  FakeQuantizeStep step{};
  bool round, keep;
  if (count != 16 || !read_tensor(args[0], x) || x.type != ElementType::kF32 || !x.is_dense() ||
      !read_bool(args[1], round) || !read_bool(args[2], keep) ||
      !read_grid(args[3], x, step.grid) || !read_range(args + 6, step.range) ||
      !read_bool(args[8], step.observe) || is_tracing()) {
    Py_RETURN_NONE;
  }
  const int64_t channels = step.grid.channels;
  step.x = static_cast<const float*>(x.data);
  step.scale = static_cast<float*>(read_values(args[4], ElementType::kF32, channels));
  step.zero_point = static_cast<int32_t*>(read_values(args[5], ElementType::kI32, channels));
  if (!step.scale || !step.zero_point) Py_RETURN_NONE;
  if (step.observe ? !read_rule(args + 9, step) : !usable_qparams(step)) Py_RETURN_NONE;
  TensorView out = x, inside = x;
  inside.type = ElementType::kU8;
  PyObject* const rounded = round ? new_tensor(out) : nullptr;
  PyObject* const mask = rounded && keep ? new_tensor(inside) : nullptr;
  if ((round && !rounded) || (rounded && keep && !mask)) {
    Py_XDECREF(rounded);
    Py_RETURN_NONE;
  }
  step.out = rounded ? static_cast<float*>(out.data) : nullptr;
  step.inside = mask ? static_cast<uint8_t*>(inside.data) : nullptr;
  int64_t others;
  {
    const GilRelease release(step.grid.elements());
    others = fake_quantize_step(step);
  }
  return step_result(rounded, mask, others);
}

// A float32 gradient and the mask of a step, of one shape and layout.
PyObject* masked_gradient_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  TensorView gradient, inside;
  if (count != 2 || !read_tensor(args[0], gradient) || gradient.type != ElementType::kF32 ||
      !read_tensor(args[1], inside) || inside.type != ElementType::kU8 ||
      !same_shape(gradient, inside) || !same_strides(gradient, inside) || !gradient.is_dense() ||
      is_tracing()) {
    Py_RETURN_NONE;
  }
  TensorView out = gradient;
  const int64_t size = out.elements();
  return or_none(run_into_new(out, size, [&](void* to) {
    masked_gradient(static_cast<const float*>(gradient.data),
                    static_cast<const uint8_t*>(inside.data), size, static_cast<float*>(to));
  }));
}

// Reads what fake_quantize_step() takes statistics of: a dense float32 tensor and its channel axis
// or None.
bool read_observed(PyObject* tensor, PyObject* axis, FakeQuantizeStep& step) {
  TensorView x;
  if (!read_tensor(tensor, x) || x.type != ElementType::kF32 || !x.is_dense() ||
      !read_grid(axis, x, step.grid) || is_tracing()) {
    return false;
  }
  step.x = static_cast<const float*>(x.data);
  step.observe = true;
  return true;
}

int64_t observe(const FakeQuantizeStep& step) {
  const GilRelease release(step.grid.elements());
  return fake_quantize_step(step);
}

// A dense float32 tensor, channel axis or None, minimum, maximum, averaging constant or None.
// Updates minimum and maximum; returns how many values were not finite.
PyObject* observe_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  FakeQuantizeStep step{};
  if (count != 5 || !read_observed(args[0], args[1], step)) Py_RETURN_NONE;
  const int64_t channels = step.grid.channels;
  step.min = static_cast<float*>(read_values(args[2], ElementType::kF32, channels));
  step.max = static_cast<float*>(read_values(args[3], ElementType::kF32, channels));
  step.rule.averages = args[4] != Py_None;
  if (!step.min || !step.max || (step.rule.averages && !read_number(args[4], step.rule.constant))) {
    Py_RETURN_NONE;
  }
  return PyLong_FromLongLong(observe(step));
}

// A dense float32 tensor. Returns (minimum, maximum, number of values that are not finite), of the
// finite values: +inf and -inf where there are none.
PyObject* extremes_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float min = kInfinity, max = -kInfinity;
  FakeQuantizeStep step{};
  if (count != 1 || !read_observed(args[0], Py_None, step)) Py_RETURN_NONE;
  step.min = &min;
  step.max = &max;
  const int64_t others = observe(step);
  return Py_BuildValue("ddL", double{min}, double{max}, static_cast<long long>(others));
}

// A dense float32 tensor, number of bins, low and high. Returns the counts, float32.
PyObject* count_bins_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  TensorView x;
  int32_t bins;
  float low, high;
  if (count != 4 || !read_tensor(args[0], x) || x.type != ElementType::kF32 || !x.is_dense() ||
      !read_int32(args[1], bins) || bins < 1 || bins > kMostBins || !read_float(args[2], low) ||
      !read_float(args[3], high) || !(low < high) || is_tracing()) {
    Py_RETURN_NONE;
  }
  TensorView out{};
  out.type = ElementType::kF32;
  out.ndim = 1;
  out.size[0] = bins;
  out.stride[0] = 1;
  const int64_t size = x.elements();
  return or_none(run_into_new(out, size, [&](void* to) {
    count_bins(static_cast<const float*>(x.data), size, low, high, bins, static_cast<float*>(to));
  }));
}

// Counts, middles of pieces and borders, float32: the arguments of move_counts(). Returns the
// counts of the new bins.
PyObject* move_counts_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  TensorView out, middles;
  if (count != 3 || !read_tensor(args[0], out) || out.type != ElementType::kF32 || out.ndim != 1 ||
      !out.is_contiguous() || out.size[0] > kMostBins || !read_tensor(args[1], middles) ||
      middles.type != ElementType::kF32 || middles.ndim != 1 || !middles.is_contiguous() ||
      is_tracing()) {
    Py_RETURN_NONE;
  }
  const int64_t bins = out.size[0], pieces = middles.size[0] / bins;
  const auto* borders =
      static_cast<const float*>(read_values(args[2], ElementType::kF32, bins + 1));
  if (!borders || pieces * bins != middles.size[0] || pieces > kMostBins) Py_RETURN_NONE;
  const auto* from = static_cast<const float*>(out.data);
  PyObject* const moved = new_tensor(out);
  if (!moved ||
      !move_counts(from, static_cast<int32_t>(bins), static_cast<const float*>(middles.data),
                   static_cast<int32_t>(pieces), borders, static_cast<float*>(out.data))) {
    Py_XDECREF(moved);
    Py_RETURN_NONE;
  }
  return moved;
}

PyMethodDef fake_quantize_function = fast_method("fake_quantize_direct", fake_quantize_direct);
PyMethodDef masked_gradient_function =
    fast_method("masked_gradient_direct", masked_gradient_direct);
PyMethodDef observer_functions[] = {fast_method("observe_direct", observe_direct),
                                    fast_method("extremes_direct", extremes_direct),
                                    fast_method("count_bins_direct", count_bins_direct),
                                    fast_method("move_counts_direct", move_counts_direct)};

}  // namespace

void add_direct_fake_quantize(py::module_& m) {
  add_function(m, &fake_quantize_function);
  add_function(m, &masked_gradient_function);
  for (PyMethodDef& function : observer_functions) add_function(m, &function);
}

}  // namespace octavo::bind
