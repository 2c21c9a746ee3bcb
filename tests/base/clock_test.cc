#include "base/clock.h"

#include <gtest/gtest.h>

namespace mnemosyne {
namespace {

using std::chrono::milliseconds;

TEST(FakeClockTest, StandsStillUntilItIsMoved) {
  FakeClock clock;
  const Clock::Time now = clock.Now();
  const Clock::Monotonic monotonic = clock.MonotonicNow();
  EXPECT_EQ(clock.Now(), now);

  clock.Advance(milliseconds(1500));

  EXPECT_EQ(clock.Now() - now, milliseconds(1500));
  EXPECT_EQ(Seconds(clock.MonotonicNow() - monotonic), 1.5);
}

TEST(RealClockTest, DoesNotGoBack) {
  const Clock::Monotonic first = Clock::Real().MonotonicNow();
  EXPECT_GE(Clock::Real().MonotonicNow(), first);
  EXPECT_GT(Clock::Real().Now(), Clock::Time());
}

}  // namespace
}  // namespace mnemosyne
