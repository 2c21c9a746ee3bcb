#include "base/clock.h"

namespace mnemosyne {
namespace {

class RealClock final : public Clock {
 public:
  Time Now() const override { return std::chrono::system_clock::now(); }
  Monotonic MonotonicNow() const override { return std::chrono::steady_clock::now(); }
};

}  // namespace

const Clock& Clock::Real() {
  static const RealClock clock;
  return clock;
}

}  // namespace mnemosyne
