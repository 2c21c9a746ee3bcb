// The waits of a RetryPolicy, one after the other.
#pragma once

#include <chrono>
#include <random>

#include "mnemosyne/retry_policy.h"

namespace mnemosyne {

// Draws the waits of one series of tries. Not thread-safe.
class Backoff {
 public:
  explicit Backoff(const RetryPolicy& policy, uint64_t seed = std::random_device()());

  // The wait before the next try.
  std::chrono::milliseconds Next();

 private:
  const RetryPolicy policy_;
  double delay_ms_;
  std::mt19937_64 random_;
};

}  // namespace mnemosyne
