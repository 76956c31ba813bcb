// The direct entry points of pooling and upsampling, from tensors to tensors. Arguments are those
// of torch.nn.functional.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "bind/bindings.h"
#include "bind/direct.h"
#include "bind/image_arguments.h"
#include "ops/pooling.h"
#include "ops/upsample.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

using Sizes = std::array<int64_t, 3>;

// The last `rank` values from one object, or from a tuple or list of `rank` of them; of 1, too,
// where torch takes that.
template <bool kOneInTuple = true, typename T, typename Read>
bool read_each(PyObject* object, int32_t rank, std::array<T, 3>& values, Read read) {
  PyObject* const* items = &object;
  Py_ssize_t count = 1;
  if (PyTuple_Check(object) || PyList_Check(object)) {
    count = PySequence_Fast_GET_SIZE(object);
    items = PySequence_Fast_ITEMS(object);
    if (count != rank && !(kOneInTuple && count == 1)) return false;
  }
  for (int32_t d = 0; d < rank; ++d) {
    if (!read(items[count == 1 ? 0 : d], values[3 - rank + d])) return false;
  }
  return true;
}

// A 1- to 3-D 8-bit image, with a batch dimension or without.
struct ImageArgument {
  QTensorView q;
  ImageView image;
  int32_t rank;
  bool planes;

  bool read(PyObject* object, int32_t dims) {
    rank = dims;
    if (dims < 1 || dims > 3 || !read_qtensor(object, q) || !q.is_8_bit()) return false;
    const int32_t c = q.ints.ndim - rank - 1;
    if ((c != 0 && c != 1) || q.ints.size[c] > std::numeric_limits<int32_t>::max()) return false;
    return as_image(q.ints, rank, static_cast<int32_t>(q.ints.size[c]), image, planes) &&
           !is_tracing();
  }
  bool read(PyObject* object, PyObject* dims) {
    int32_t value;
    return read_int32(dims, value) && read(object, value);
  }
  bool has_batch() const { return q.ints.ndim == rank + 2; }
};

// Runs kernel(image, out) for an image of another size, or None where that has no element. With
// `flat`, the output is (N, C).
template <typename Kernel>
PyObject* run_image(ImageArgument& a, const Sizes& size, bool flat, Kernel kernel) {
  TensorView out = channels_last_view(a.q.ints.type, a.rank, a.image.batch, a.has_batch(),
                                      a.image.channels, size);
  if (out.elements() < 1) Py_RETURN_NONE;
  if (flat) {
    out.ndim = 2;
    make_contiguous(out);
  }
  const auto run = [&](void* to) {
    const LaidOut laid_out(a.image, a.planes);
    kernel(a.image, to);
  };
  const int64_t cost = std::max(a.q.ints.elements(), out.elements());
  return or_none(wrap_qtensor(run_into_new(out, cost, run), a.q.objects()));
}

// `args` are kernel, stride, padding. The dilation of `g` is set.
bool read_windows(PyObject* const* args, const ImageArgument& a, PoolGeometry& g, Sizes& size) {
  const bool empty =
      (PyTuple_Check(args[1]) || PyList_Check(args[1])) && PySequence_Fast_GET_SIZE(args[1]) == 0;
  PyObject* const stride = args[1] == Py_None || empty ? args[0] : args[1];
  if (!read_each(args[0], a.rank, g.kernel, read_int32) ||
      !read_each(stride, a.rank, g.stride, read_int32) ||
      !read_each(args[2], a.rank, g.padding, read_int32)) {
    return false;
  }
  for (int d = 0; d < 3; ++d) {
    if (g.kernel[d] < 1 || g.stride[d] < 1 || g.dilation[d] < 1) return false;
    const int64_t span = int64_t{g.dilation[d]} * (g.kernel[d] - 1) + 1;
    if (g.padding[d] < 0 || g.padding[d] > span / 2) return false;
    size[d] = g.output_size(d, a.image.size[d]);
    if (size[d] < 1) return false;
  }
  return true;
}

// A QTensor, its spatial dimensions, kernel, stride, padding, dilation, ceil_mode.
PyObject* max_pool_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ImageArgument a;
  PoolGeometry g;
  Sizes size;
  if (count != 7 || !a.read(args[0], args[1]) || !read_bool(args[6], g.ceil_mode) ||
      !read_each(args[5], a.rank, g.dilation, read_int32) || !read_windows(args + 2, a, g, size)) {
    Py_RETURN_NONE;
  }
  return run_image(a, size, false,
                   [&](const ImageView& image, void* out) { max_pool(image, g, out); });
}

// A QTensor, its spatial dimensions, kernel, stride, padding, ceil_mode, count_include_pad,
// divisor_override.
PyObject* avg_pool_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ImageArgument a;
  PoolGeometry g;
  AveragePoolOptions options;
  Sizes size;
  if (count != 8 || !a.read(args[0], args[1]) || !read_bool(args[5], g.ceil_mode) ||
      !read_bool(args[6], options.count_include_pad) || !read_windows(args + 2, a, g, size)) {
    Py_RETURN_NONE;
  }
  if (args[7] != Py_None &&
      (!read_int32(args[7], options.divisor_override) || options.divisor_override == 0)) {
    Py_RETURN_NONE;
  }
  return run_image(a, size, false, [&](const ImageView& image, void* out) {
    avg_pool(image, a.q.qparams.zero_point, g, options, out);
  });
}

bool read_size(PyObject* object, int64_t& size) {
  int32_t value;
  if (!read_int32(object, value) || value < 1) return false;
  size = value;
  return true;
}

// A QTensor, its spatial dimensions, one output size or a tuple of them, where None keeps the
// input's.
template <bool kMax>
PyObject* adaptive_pool_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ImageArgument a;
  if (count != 3 || !a.read(args[0], args[1])) Py_RETURN_NONE;
  Sizes size{0, 0, 0};  // 0: the input's
  const auto read = [](PyObject* object, int64_t& value) {
    return object == Py_None || read_size(object, value);
  };
  if (args[2] == Py_None || !read_each<false>(args[2], a.rank, size, read)) Py_RETURN_NONE;
  for (int d = 0; d < 3; ++d) size[d] = size[d] ? size[d] : a.image.size[d];
  return run_image(a, size, false, [&](const ImageView& image, void* out) {
    if constexpr (kMax) {
      adaptive_max_pool(image, size, out);
    } else {
      adaptive_avg_pool(image, a.q.qparams.zero_point, size, out);
    }
  });
}

// Whether the object is a list or tuple of the last dimensions of `ndim`, all but two, in any
// order.
bool names_spatial_dims(PyObject* object, int32_t ndim) {
  if (!(PyTuple_CheckExact(object) || PyList_CheckExact(object)) ||
      PySequence_Fast_GET_SIZE(object) != ndim - 2) {
    return false;
  }
  uint32_t seen = 0;
  for (int32_t i = 0; i < ndim - 2; ++i) {
    int32_t dim;
    if (!read_int32(PySequence_Fast_ITEMS(object)[i], dim)) return false;
    dim += dim < 0 ? ndim : 0;
    if (dim < 2 || dim >= ndim || (seen >> dim & 1)) return false;
    seen |= 1u << dim;
  }
  return true;
}

// A QTensor (N, C, spatial...), dimensions, keepdim.
PyObject* spatial_mean_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ImageArgument a;
  QTensorView q;
  bool keepdim;
  if (count != 3 || !read_qtensor(args[0], q) || !names_spatial_dims(args[1], q.ints.ndim) ||
      !read_bool(args[2], keepdim) || !a.read(args[0], q.ints.ndim - 2)) {
    Py_RETURN_NONE;
  }
  const Sizes one{1, 1, 1};
  return run_image(a, one, !keepdim, [&](const ImageView& image, void* out) {
    adaptive_avg_pool(image, a.q.qparams.zero_point, one, out);
  });
}

bool read_factor(PyObject* object, double& factor) {
  int32_t whole;
  if (PyFloat_CheckExact(object)) {
    factor = PyFloat_AS_DOUBLE(object);
  } else if (read_int32(object, whole)) {
    factor = whole;
  } else {
    return false;
  }
  return std::isfinite(factor) && factor > 0.0;
}

// `args` are size, scale_factor and recompute_scale_factor, of which the first or the second is
// None. Without the last, the factors place the samples.
bool read_resize(PyObject* const* args, const ImageArgument& a, ResizeGeometry& g) {
  const bool recompute = args[2] == Py_True;
  if ((!recompute && args[2] != Py_None && args[2] != Py_False) ||
      (args[0] == Py_None) == (args[1] == Py_None)) {
    return false;
  }
  if (args[1] == Py_None) return !recompute && read_each<false>(args[0], a.rank, g.size, read_size);
  if (!read_each<false>(args[1], a.rank, g.scale, read_factor)) return false;
  for (int d = 3 - a.rank; d < 3; ++d) {
    const double size = static_cast<double>(a.image.size[d]) * g.scale[d];
    if (!(size >= 1.0 && size < 0x1p31)) return false;
    g.size[d] = static_cast<int64_t>(size);
  }
  if (recompute) g.scale = {0, 0, 0};
  return true;
}

// A QTensor (N, C, spatial...), whether samples are at the centres, size, scale_factor,
// recompute_scale_factor.
PyObject* upsample_nearest_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ImageArgument a;
  ResizeGeometry g;
  bool exact;
  QTensorView q;
  if (count != 5 || !read_qtensor(args[0], q) || !a.read(args[0], q.ints.ndim - 2) ||
      !read_bool(args[1], exact) || !read_resize(args + 2, a, g)) {
    Py_RETURN_NONE;
  }
  for (int d = 0; d < 3; ++d) {  // as ops/upsample.py
    const int64_t have = a.image.size[d];
    if (a.rank == 2 && !exact && (g.size[d] == have || g.size[d] == 2 * have)) g.scale[d] = 0;
  }
  return run_image(a, g.size, false, [&](const ImageView& image, void* out) {
    upsample_nearest(image, g, exact, out);
  });
}

// A QTensor (N, C, spatial...), align_corners, size, scale_factor, recompute_scale_factor.
PyObject* upsample_linear_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ImageArgument a;
  ResizeGeometry g;
  bool align_corners;
  QTensorView q;
  if (count != 5 || !read_qtensor(args[0], q) || !a.read(args[0], q.ints.ndim - 2) ||
      !read_bool(args[1], align_corners) || !read_resize(args + 2, a, g)) {
    Py_RETURN_NONE;
  }
  for (int d = 0; d < 3; ++d) {
    if (g.size[d] == a.image.size[d]) g.scale[d] = 0;
  }
  return run_image(a, g.size, false, [&](const ImageView& image, void* out) {
    upsample_linear(image, a.q.qparams.zero_point, g, align_corners, out);
  });
}

PyMethodDef functions[] = {fast_method("max_pool_direct", max_pool_direct),
                           fast_method("avg_pool_direct", avg_pool_direct),
                           fast_method("adaptive_max_pool_direct", adaptive_pool_direct<true>),
                           fast_method("adaptive_avg_pool_direct", adaptive_pool_direct<false>),
                           fast_method("spatial_mean_direct", spatial_mean_direct),
                           fast_method("upsample_nearest_direct", upsample_nearest_direct),
                           fast_method("upsample_linear_direct", upsample_linear_direct)};

}  // namespace

void add_direct_images(py::module_& m) {
  for (PyMethodDef& function : functions) add_function(m, &function);
}

}  // namespace octavo::bind
