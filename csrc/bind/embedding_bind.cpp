// Look-ups in embedding tables.
#include "bind/bindings.h"
#include "bind/clock.h"
#include "ops/embedding.h"

namespace py = pybind11;

namespace octavo::bind {

void add_embedding(py::module_& m) {
  // `bags` outputs; `offsets` is 0 where all bags have `bag_length` indices, `weights` where there
  // are none.
  m.def(
      "embedding_bags",
      [](uintptr_t table, uintptr_t qparams, int64_t rows, int64_t columns, bool nibbles,
         uintptr_t indices, int64_t count, bool is_64_bit, uintptr_t offsets, int64_t offset_count,
         int64_t bag_length, int64_t bags, uintptr_t weights, int64_t padding, int mode,
         uintptr_t out) {
        if (mode < 0 || mode > 2) throw std::invalid_argument("mode must be 0, 1 or 2");
        EmbeddingArgs args{};
        args.row_bytes = nibbles ? (columns + 1) / 2 : columns;
        args.table = pointer<const uint8_t>(table, rows * args.row_bytes);
        args.qparams = pointer<const float>(qparams, rows);
        args.table_rows = rows;
        args.columns = columns;
        args.indices = pointer<const void>(indices, count);
        args.count = count;
        args.is_64_bit = is_64_bit;
        args.offsets = pointer<const void>(offsets, offset_count);
        args.offset_count = offset_count;
        args.bag_length = bag_length;
        args.weights = pointer<const float>(weights, 0);
        args.padding = padding;
        args.mode = static_cast<EmbeddingMode>(mode);
        args.bag_end = bags;
        args.out = pointer<float>(out, bags * columns);
        embedding_bags(args, nibbles);
      },
      Release());
}

}  // namespace octavo::bind
