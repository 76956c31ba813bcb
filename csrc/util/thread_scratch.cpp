#include "util/aligned_buffer.h"

namespace octavo {
namespace {

uint8_t* at_least(AlignedBuffer& buffer, size_t size) {
  if (buffer.size() < size) buffer = AlignedBuffer(round_up(static_cast<int64_t>(size), 4096));
  return buffer.data();
}

}  // namespace

uint8_t* thread_scratch(size_t size) {
  thread_local AlignedBuffer buffer;
  return at_least(buffer, size);
}

uint8_t* call_scratch(size_t size) {
  thread_local AlignedBuffer buffer;
  return at_least(buffer, size);
}

}  // namespace octavo
