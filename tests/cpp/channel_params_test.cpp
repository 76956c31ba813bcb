// The cache of per-channel arrays: what it gives is right, stays as it is, and takes bounded
// memory, whoever asks at the same time.
#include "ops/channel_params.h"

#include <atomic>
#include <set>
#include <stdexcept>
#include <thread>

#include "support.h"

namespace octavo::testing {
namespace {

constexpr int32_t kChannels = 64;

ChannelParamsKey key_of(int32_t zero) { return {0.5f, zero, true, 0.0f}; }

void fill(ChannelParams& params, int32_t zero) {
  if (params.acc_init.size() == 0)
    params.acc_init = AlignedBuffer::zeroed(kChannels * sizeof(int32_t));
  for (int32_t c = 0; c < kChannels; ++c) params.acc_init.as<int32_t>()[c] = zero;
}

bool holds(const ChannelParams& params, int32_t zero) {
  for (int32_t c = 0; c < kChannels; ++c) {
    if (params.acc_init.as<int32_t>()[c] != zero) return false;
  }
  return true;
}

TEST(ChannelParamsTest, ComputesASetOnce) {
  ChannelParamsCache cache;
  int computed = 0;
  for (int round = 0; round < 3; ++round) {
    for (int32_t zero : {1, 2, 3, 4}) {
      const auto lease = cache.get(key_of(zero), [&](ChannelParams& params) {
        ++computed;
        fill(params, zero);
      });
      EXPECT_TRUE(holds(*lease, zero));
    }
  }
  EXPECT_EQ(computed, 4);
}

TEST(ChannelParamsTest, TellsEveryPartOfTheKeyApart) {
  ChannelParamsCache cache;
  const ChannelParamsKey keys[] = {
      {0.5f, 1, false, 2.0f}, {0.25f, 1, false, 2.0f}, {0.5f, 2, false, 2.0f},
      {0.5f, 1, true, 0.0f},  {0.5f, 1, false, 4.0f},
  };
  int32_t value = 0;
  for (const ChannelParamsKey& key : keys) {
    ++value;
    EXPECT_TRUE(holds(*cache.get(key, [&](ChannelParams& p) { fill(p, value); }), value));
  }
}

// More sets in use at once than there are slots: each stays as it is.
TEST(ChannelParamsTest, KeepsEverySetThatIsInUse) {
  ChannelParamsCache cache;
  std::vector<ChannelParamsCache::Lease> leases;
  for (int32_t zero = 0; zero < 20; ++zero)
    leases.push_back(cache.get(key_of(zero), [&](ChannelParams& p) { fill(p, zero); }));
  for (int32_t zero = 0; zero < 20; ++zero) EXPECT_TRUE(holds(*leases[zero], zero)) << zero;
}

TEST(ChannelParamsTest, ReusesMemory) {
  ChannelParamsCache cache;
  std::set<const void*> buffers;
  for (int32_t zero = 0; zero < 1000; ++zero) {
    const auto lease = cache.get(key_of(zero), [&](ChannelParams& p) { fill(p, zero); });
    buffers.insert((*lease).acc_init.data());
  }
  EXPECT_LE(buffers.size(), 8u);
}

TEST(ChannelParamsTest, ForgetsASetThatCouldNotBeComputed) {
  ChannelParamsCache cache;
  for (int i = 0; i < 10; ++i) {
    EXPECT_THROW(cache.get(key_of(7), [](ChannelParams&) { throw std::invalid_argument("no"); }),
                 std::invalid_argument);
  }
  EXPECT_TRUE(holds(*cache.get(key_of(7), [](ChannelParams& p) { fill(p, 7); }), 7));
  int computed = 0;
  const auto count = [&](ChannelParams& p) { fill(p, 7), ++computed; };
  EXPECT_TRUE(holds(*cache.get(key_of(7), count), 7));
  EXPECT_EQ(computed, 0);
}

TEST(ChannelParamsTest, ThreadsNeverSeeASetChange) {
  ChannelParamsCache cache;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Random random(t);
      for (int i = 0; i < 20000; ++i) {
        const int32_t zero = random.integer(0, 6);
        const auto lease = cache.get(key_of(zero), [&](ChannelParams& p) { fill(p, zero); });
        if (!holds(*lease, zero)) ++wrong;
        if (random.chance(16)) std::this_thread::yield();
        if (!holds(*lease, zero)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace octavo::testing
