// How long the client waits before it tries again.
#pragma once

#include <chrono>

namespace mnemosyne {

// The n-th wait is `initial_delay` times multiplier^(n-1), at most `delay_max`, less a random part
// of up to `jitter` of it, so that many clients of a restarted daemon do not return all at once.
struct RetryPolicy {
  std::chrono::milliseconds initial_delay{50};
  std::chrono::milliseconds delay_max{5'000};
  double multiplier = 2;
  double jitter = 0.5;  // In [0, 1].
};

}  // namespace mnemosyne
