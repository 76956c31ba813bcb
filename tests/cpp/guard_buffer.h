// Memory between two pages that fault, so that a read or write one byte too far ends the test.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace octavo::testing {

// Where data touches a guard page.
enum class Side { kEnd, kBegin };

inline size_t page_size() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// How many bytes data keep away from the guard page behind them: 0. CPUs do not touch what a masked
// load of AVX leaves out, but qemu does: under it, OCTAVO_TEST_SLACK=64 leaves room for that.
inline size_t slack() {
  static const size_t size = [] {
    const char* text = std::getenv("OCTAVO_TEST_SLACK");
    return text ? std::strtoul(text, nullptr, 10) / 64 * 64 : 0;
  }();
  return size;
}

// Reserves `pages` pages and opens those for which `open` says so.
class Mapping {
 public:
  template <typename Open>
  Mapping(size_t pages, Open open) : bytes_(pages * page_size()) {
    void* p = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<uint8_t*>(p);
    for (size_t i = 0; i < pages; ++i) {
      if (open(i) && mprotect(base_ + i * page_size(), page_size(), PROT_READ | PROT_WRITE) != 0) {
        throw std::bad_alloc();
      }
    }
  }
  ~Mapping() { munmap(base_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  uint8_t* page(size_t i) const { return base_ + i * page_size(); }

 private:
  uint8_t* base_;
  size_t bytes_;
};

// Reusable memory for one array. Mapping costs system calls, so a buffer is made once and placed
// anew for each case.
class GuardBuffer {
 public:
  explicit GuardBuffer(size_t capacity)
      : pages_((capacity + page_size() - 1) / page_size() + 1),
        map_(pages_ + 2, [this](size_t i) { return i > 0 && i <= pages_; }) {}

  // `size` bytes that touch the guard page behind them (kEnd) or before them (kBegin). At the end,
  // `align` moves the data away from the guard by less than `align` bytes; callers whose size is a
  // multiple of it lose nothing. The other side has at least kMargin accessible bytes, all filled
  // with `fill`, as the data is.
  static constexpr size_t kMargin = 256;
  uint8_t* place(size_t size, Side side, size_t align = 1, uint8_t fill = kFill) {
    if (size + kMargin + slack() > pages_ * page_size()) throw std::bad_alloc();
    uint8_t* begin = map_.page(1);
    uint8_t* end = map_.page(pages_ + 1) - slack();
    data_ = side == Side::kBegin ? begin : end - (size + align - 1) / align * align;
    size_ = size;
    side_ = side;
    margin_ = side == Side::kBegin ? data_ + size : data_ - kMargin;
    std::memset(data_, fill, size);
    std::memset(margin_, kFill, kMargin);
    return data_;
  }
  template <typename T>
  T* place_array(size_t count, Side side) {
    return reinterpret_cast<T*>(place(count * sizeof(T), side, alignof(T)));
  }

  // Whether the accessible bytes beside the data are as place() left them.
  bool margin_intact() const {
    for (size_t i = 0; i < kMargin; ++i) {
      if (margin_[i] != kFill) return false;
    }
    return true;
  }

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  static constexpr uint8_t kFill = 0xA5;

 private:
  size_t pages_;
  Mapping map_;
  uint8_t* data_ = nullptr;
  uint8_t* margin_ = nullptr;
  size_t size_ = 0;
  Side side_ = Side::kEnd;
};

// Rows of up to a page each, with a guard page between any two, at one stride: catches a kernel
// that reads past one row into the next, where a dense matrix would hide it.
class GuardRows {
 public:
  explicit GuardRows(size_t rows)
      : map_(rows * pages_each() + 1, [](size_t i) { return i % pages_each() != 0; }) {}
  static ptrdiff_t stride() { return static_cast<ptrdiff_t>(pages_each() * page_size()); }
  uint8_t* row(size_t i, size_t size, Side side) const {
    if (size > page_size()) throw std::bad_alloc();
    uint8_t* guard = map_.page((i + 1) * pages_each());
    return side == Side::kBegin ? map_.page(i * pages_each() + 1) : guard - size - slack();
  }

 private:
  // A row's pages, one more where it keeps away from the guard, and the guard page before it.
  static size_t pages_each() { return slack() > 0 ? 3 : 2; }

  Mapping map_;
};

}  // namespace octavo::testing
