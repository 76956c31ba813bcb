#include "bind/bindings.h"
#include "parallel/parallel.h"

// Safe without the GIL: what threads share is immutable, atomic or per thread (csrc/README.md).
PYBIND11_MODULE(_C, m, pybind11::mod_gil_not_used()) {
  m.doc() =
      "Octavo's kernels. Use octavo.ops and octavo.backend instead: these functions trust their "
      "addresses.";
  m.attr("__version__") = OCTAVO_VERSION;
  // Finds torch's threads now and watches for forks from here on: a child forked before the first
  // kernel ran must know, too, that its parent's threads did not come along.
  octavo::max_threads();
  octavo::bind::add_attention(m);
  octavo::bind::add_backend(m);
  octavo::bind::add_elementwise(m);
  octavo::bind::add_embedding(m);
  octavo::bind::add_images(m);
  octavo::bind::add_normalize(m);
  octavo::bind::add_weights(m);
  octavo::bind::add_recurrent(m);
  octavo::bind::add_conv(m);
  octavo::bind::add_conv_transpose(m);
  octavo::bind::add_direct(m);
  octavo::bind::add_direct_elementwise(m);
  octavo::bind::add_direct_embedding(m);
  octavo::bind::add_direct_fake_quantize(m);
  octavo::bind::add_direct_images(m);
  octavo::bind::add_direct_normalize(m);
}
