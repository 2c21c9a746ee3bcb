#include "server/session/memory_budget.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

TEST(MemoryBudgetTest, HandsOutUntilItsBoundAndTakesBack) {
  MemoryBudget budget(100);
  {
    auto first = budget.Reserve(60);
    ASSERT_OK(first);
    EXPECT_EQ(ErrorReason(budget.Reserve(41).status()), "MEMORY_EXHAUSTED");
    EXPECT_OK(budget.Reserve(40));
    EXPECT_EQ(budget.bytes_reserved(), 60);
    const MemoryBudget::Reservation moved = *std::move(first);
    EXPECT_EQ(moved.bytes(), 60);
    EXPECT_EQ(budget.bytes_reserved(), 60);
  }
  EXPECT_EQ(budget.bytes_reserved(), 0);
}

TEST(MemoryBudgetTest, HasABoundOfItsOwnForTheDevice) {
  MemoryBudget budget(100, 50);
  const auto first = budget.Reserve({.host = 10, .device = 40});
  ASSERT_OK(first);
  const absl::Status refused = budget.Reserve({.host = 10, .device = 11}).status();
  EXPECT_EQ(ErrorReason(refused), "MEMORY_EXHAUSTED");
  EXPECT_EQ(ErrorMetadata(refused).at("available_bytes"), "10");
  // What was refused has taken nothing of the other memory.
  EXPECT_EQ(budget.bytes_reserved(), 10);
  EXPECT_EQ(budget.device_bytes_reserved(0), 40);
  EXPECT_EQ(budget.Lacking({.host = 95, .device = 11}), (MemoryAmounts{.host = 5, .device = 1}));
  EXPECT_TRUE(budget.CanHold({.host = 100, .device = 50}));
  EXPECT_FALSE(budget.CanHold({.host = 1, .device = 51}));
}

TEST(MemoryBudgetTest, CountsEachDeviceForItself) {
  MemoryBudget budget(100, {50, 70});
  const auto first = budget.Reserve({.device = 40, .ordinal = 1});
  ASSERT_OK(first);
  EXPECT_EQ(budget.DeviceBytesLeft(0), 50);
  EXPECT_EQ(budget.DeviceBytesLeft(1), 30);
  EXPECT_OK(budget.Reserve({.device = 50}));
  EXPECT_EQ(
      ErrorMetadata(budget.Reserve({.device = 31, .ordinal = 1}).status()).at("available_bytes"),
      "30");
  EXPECT_EQ(budget.Lacking({.device = 31, .ordinal = 1}),
            (MemoryAmounts{.device = 1, .ordinal = 1}));
}

}  // namespace
}  // namespace mnemosyne::server
