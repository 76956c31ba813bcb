#include "util/aligned_buffer.h"

namespace octavo {

uint8_t* thread_scratch(size_t size) {
  thread_local AlignedBuffer buffer;
  if (buffer.size() < size) buffer = AlignedBuffer(round_up(static_cast<int64_t>(size), 4096));
  return buffer.data();
}

}  // namespace octavo
