#include "client/cpp/backoff.h"

#include <gtest/gtest.h>

namespace mnemosyne {
namespace {

using std::chrono::milliseconds;

RetryPolicy Policy(double jitter) {
  RetryPolicy policy;
  policy.initial_delay = milliseconds(100);
  policy.delay_max = milliseconds(1'000);
  policy.multiplier = 3;
  policy.jitter = jitter;
  return policy;
}

TEST(BackoffTest, GrowsUpToItsLimit) {
  Backoff backoff(Policy(0));

  EXPECT_EQ(backoff.Next(), milliseconds(100));
  EXPECT_EQ(backoff.Next(), milliseconds(300));
  EXPECT_EQ(backoff.Next(), milliseconds(900));
  EXPECT_EQ(backoff.Next(), milliseconds(1'000));
  EXPECT_EQ(backoff.Next(), milliseconds(1'000));
}

TEST(BackoffTest, TakesOffARandomPartOfAtMostTheJitter) {
  bool differs = false;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Backoff backoff(Policy(0.5), seed);
    const auto wait = backoff.Next();
    EXPECT_GE(wait, milliseconds(50));
    EXPECT_LE(wait, milliseconds(100));
    differs |= wait != Backoff(Policy(0.5), seed + 1).Next();
  }
  EXPECT_TRUE(differs);
}

}  // namespace
}  // namespace mnemosyne
