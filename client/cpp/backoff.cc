#include "client/cpp/backoff.h"

#include <algorithm>

namespace mnemosyne {

Backoff::Backoff(const RetryPolicy& policy, uint64_t seed)
    : policy_(policy),
      delay_ms_(static_cast<double>(policy.initial_delay.count())),
      random_(seed) {}

std::chrono::milliseconds Backoff::Next() {
  const double delay = std::min(delay_ms_, static_cast<double>(policy_.delay_max.count()));
  delay_ms_ = std::min(delay * policy_.multiplier, static_cast<double>(policy_.delay_max.count()));
  const double share = std::uniform_real_distribution<double>(1 - policy_.jitter, 1)(random_);
  return std::chrono::milliseconds(static_cast<int64_t>(delay * share));
}

}  // namespace mnemosyne
