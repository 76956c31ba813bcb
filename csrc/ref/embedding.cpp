#include <cmath>
#include <vector>

#include "ref/reference.h"

namespace octavo::ref {
namespace {

int64_t integer(const void* p, bool is_64_bit, int64_t i) {
  return is_64_bit ? static_cast<const int64_t*>(p)[i] : static_cast<const int32_t*>(p)[i];
}

struct Row {
  int64_t index;
  float weight;
};

// One column of one bag.
float column(const EmbeddingArgs& args, bool nibbles, const std::vector<Row>& rows, int64_t c) {
  const auto q = [&](const Row& row) {
    const uint8_t* bytes = args.table + row.index * args.row_bytes;
    if (!nibbles) return static_cast<float>(bytes[c]);
    return static_cast<float>(c % 2 ? bytes[c / 2] / 16 : bytes[c / 2] % 16);
  };
  const auto scale = [&](const Row& row) { return args.qparams[row.index * 2]; };
  const auto offset = [&](const Row& row) { return args.qparams[row.index * 2 + 1]; };
  if (rows.empty()) return 0.0f;
  float x = args.mode == EmbeddingMode::kMax ? -INFINITY : 0.0f, offsets = 0.0f;
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    if (args.mode == EmbeddingMode::kMax) {
      const float scaled = q(row) * scale(row);
      x = std::fmax(x, scaled + offset(row));
      continue;
    }
    x = std::fma(q(row), row.weight * scale(row), x);
    offsets += row.weight * offset(row);
    if (i % kEmbeddingGroup == kEmbeddingGroup - 1 || i + 1 == rows.size()) {
      x += offsets;
      offsets = 0.0f;
    }
  }
  return x;
}

}  // namespace

int64_t embedding_kernel(const EmbeddingArgs& args, bool nibbles) {
  for (int64_t b = args.bag_begin; b < args.bag_end; ++b) {
    int64_t begin = b * args.bag_length, end = begin + args.bag_length;
    if (args.offsets) {
      begin = integer(args.offsets, args.is_64_bit, b);
      end = b + 1 < args.offset_count ? integer(args.offsets, args.is_64_bit, b + 1) : args.count;
    }
    std::vector<Row> rows;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t index = integer(args.indices, args.is_64_bit, i);
      if (index < 0 || index >= args.table_rows) return i;
      if (index != args.padding) rows.push_back({index, args.weights ? args.weights[i] : 1.0f});
    }
    if (args.mode == EmbeddingMode::kMean) {
      for (Row& row : rows) row.weight = 1.0f / static_cast<float>(rows.size());
    }
    for (int64_t c = 0; c < args.columns; ++c) {
      args.out[b * args.columns + c] = column(args, nibbles, rows, c);
    }
  }
  return -1;
}

}  // namespace octavo::ref
