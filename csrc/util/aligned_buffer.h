// Heap memory aligned to a cache line, and per-thread scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace octavo {

constexpr size_t kAlignment = 64;

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Uninitialized memory. Throws std::bad_alloc.
  explicit AlignedBuffer(size_t size)
      : data_(size ? static_cast<uint8_t*>(::operator new (size, std::align_val_t{kAlignment}))
                   : nullptr),
        size_(size) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer() {
    if (data_) ::operator delete (data_, std::align_val_t{kAlignment});
  }

  static AlignedBuffer zeroed(size_t size) {
    AlignedBuffer buffer(size);
    if (size) std::memset(buffer.data_, 0, size);
    return buffer;
  }

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// At least `size` bytes private to the calling thread, 64-byte aligned, valid until its next call.
// Grows and stays: drivers keep what they ask for under 1 MiB by choosing their blocks, whatever
// the size of the problem.
uint8_t* thread_scratch(size_t size);

// The same, apart from it, for what the tasks of one operator call share: asked for by the thread
// that makes the call, outside its tasks.
uint8_t* call_scratch(size_t size);

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace octavo
