// Look-ups in quantized embedding tables, one row or a bag of rows for each output.
#pragma once

#include "abi/kernel_abi.h"

namespace octavo {

// The bag arguments of `args` (offsets, or bag_length and bag_end) say which bags there are;
// bag_begin is 0. Computes all of them, threaded over bags.
//
// Throws std::out_of_range for an index that is not in the table (the first one), and
// std::invalid_argument for offsets that do not begin with 0, decrease, or go beyond the indices;
// the output may be written in part then.
void embedding_bags(const EmbeddingArgs& args, bool nibbles);

}  // namespace octavo
