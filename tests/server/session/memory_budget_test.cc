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

}  // namespace
}  // namespace mnemosyne::server
