// The per-channel arrays of an Epilogue, kept for the qparams that calls come with.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <utility>

#include "util/aligned_buffer.h"

namespace octavo {

// The arrays for one choice of input and output qparams.
struct ChannelParams {
  AlignedBuffer acc_init, mult, bias;  // int32, float, float; padded to kChannelPad
  bool stays_int32 = false;            // see Epilogue
};

// What the arrays depend on, besides the weight.
struct ChannelParamsKey {
  float input_scale;
  int32_t input_zero;  // activation offset included
  bool real_output;    // int32 or float32: out_scale is 0 and means nothing
  float out_scale;
  bool operator==(const ChannelParamsKey&) const = default;
};

// A few sets of arrays, shared by threads without locks.
//
// Each slot has a count of its readers; a set is replaced by who finds its count at zero and sets
// it to kWriting. Nobody ever waits: a thread that finds neither its set nor a free slot computes a
// set for itself alone. So a call allocates nothing once its slots have their memory, memory is
// bounded whatever the qparams do, and a child that was forked while other threads read or wrote
// loses those slots and nothing more. (An atomic<shared_ptr> guards its pointer with a lock bit,
// which a fork may leave set; a list of superseded sets grows with the number of qparams.)
class ChannelParamsCache {
  struct Slot;

 public:
  // Arrays that stay as they are while this lives.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept {
      std::swap(slot_, other.slot_);
      std::swap(own_, other.own_);
      return *this;
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() {
      if (slot_) slot_->readers.fetch_sub(1, std::memory_order_release);
    }
    const ChannelParams& operator*() const { return slot_ ? slot_->params : *own_; }

   private:
    friend class ChannelParamsCache;
    Slot* slot_ = nullptr;
    std::unique_ptr<ChannelParams> own_;
  };

  // The arrays for `key`; where there are none, compute(ChannelParams&) fills them in, either empty
  // or of a former use. What compute() throws comes through, and leaves nothing behind.
  template <typename Compute>
  Lease get(const ChannelParamsKey& key, Compute compute) {
    const unsigned recent = recent_.load(std::memory_order_relaxed);
    for (unsigned i = 0; i < kSlots; ++i) {
      Slot& slot = slots_[(recent + i) % kSlots];
      if (Lease lease = read(slot, key); lease.slot_) return lease;
    }
    // The recent set is the likeliest to be asked for again, so it goes last.
    for (unsigned i = 1; i <= kSlots; ++i) {
      const unsigned index = (recent + i) % kSlots;
      Slot& slot = slots_[index];
      int32_t idle = 0;
      if (!slot.readers.compare_exchange_strong(idle, kWriting, std::memory_order_acquire))
        continue;
      const Writing writing{slot};
      slot.filled = false;
      compute(slot.params);
      slot.key = key;
      slot.filled = true;
      recent_.store(index, std::memory_order_relaxed);
      slot.readers.fetch_add(1, std::memory_order_relaxed);
      Lease lease;
      lease.slot_ = &slot;
      return lease;
    }
    Lease lease;
    lease.own_ = std::make_unique<ChannelParams>();
    compute(*lease.own_);
    return lease;
  }

 private:
  static constexpr unsigned kSlots = 4;
  static constexpr int32_t kWriting = -(1 << 30);

  struct Slot {
    std::atomic<int32_t> readers{0};  // from kWriting on while somebody writes
    bool filled = false;
    ChannelParamsKey key;
    ChannelParams params;
  };

  // Ends writing; readers that came meanwhile and have not gone yet stay counted.
  struct Writing {
    Slot& slot;
    ~Writing() { slot.readers.fetch_sub(kWriting, std::memory_order_release); }
  };

  static Lease read(Slot& slot, const ChannelParamsKey& key) {
    Lease lease;
    if (slot.readers.fetch_add(1, std::memory_order_acquire) >= 0 && slot.filled &&
        slot.key == key) {
      lease.slot_ = &slot;
    } else {
      slot.readers.fetch_sub(1, std::memory_order_release);
    }
    return lease;
  }

  std::array<Slot, kSlots> slots_;
  std::atomic<unsigned> recent_{0};
};

}  // namespace octavo
