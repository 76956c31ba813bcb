// The direct entry points of fake quantization: a step of a module on float32 tensors, and the
// gradient of one.
#include "bind/bindings.h"
#include "bind/direct.h"
#include "ops/fake_quantize.h"

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

PyMethodDef fake_quantize_function = fast_method("fake_quantize_direct", fake_quantize_direct);
PyMethodDef masked_gradient_function =
    fast_method("masked_gradient_direct", masked_gradient_direct);

}  // namespace

void add_direct_fake_quantize(py::module_& m) {
  add_function(m, &fake_quantize_function);
  add_function(m, &masked_gradient_function);
}

}  // namespace octavo::bind
