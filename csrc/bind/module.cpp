#include "bind/bindings.h"

PYBIND11_MODULE(_C, m) {
  m.doc() =
      "Octavo's kernels. Use octavo.ops and octavo.backend instead: these functions trust their "
      "addresses.";
  m.attr("__version__") = OCTAVO_VERSION;
  octavo::bind::add_backend(m);
  octavo::bind::add_elementwise(m);
  octavo::bind::add_weights(m);
}
