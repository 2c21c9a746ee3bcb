#include "server/session/step_executor.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/error.h"
#include "tests/testing/notification.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

// A device whose first task waits until the test lets it go; what comes behind it is queued.
class StepExecutorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(executor_.Submit("first", [this](StepExecutor::Device&) {
      started_.Notify();
      released_.WaitForNotification();
    }));
    started_.WaitForNotification();
  }

  // A task that costs `milliseconds` of the device's time.
  absl::Status Submit(const std::string& tenant, int milliseconds) {
    return executor_.Submit(tenant, [this, tenant, milliseconds](StepExecutor::Device&) {
      clock_.Advance(std::chrono::milliseconds(milliseconds));
      order_ += tenant;
    });
  }

  std::string Order() {
    released_.Notify();
    executor_.Stop();
    return order_;
  }

  FakeClock clock_;
  mnemosyne::testing::Notification started_;
  mnemosyne::testing::Notification released_;
  std::string order_;
  StepExecutor executor_{*kernels::CreateBackend("cpu", {.threads = 1}), 8, clock_};
};

TEST_F(StepExecutorTest, TakesTheTasksOfATenantInOrderAndTenantsInTurns) {
  for (int i = 0; i < 3; ++i) ASSERT_OK(Submit("a", 1));
  for (int i = 0; i < 2; ++i) ASSERT_OK(Submit("b", 1));
  EXPECT_EQ(Order(), "ababa");
}

TEST_F(StepExecutorTest, AGreedyTenantSlowsItself) {
  for (int i = 0; i < 2; ++i) ASSERT_OK(Submit("a", 10));
  for (int i = 0; i < 4; ++i) ASSERT_OK(Submit("b", 1));
  EXPECT_EQ(Order(), "abbbba");
}

TEST_F(StepExecutorTest, ATenantCannotFillTheQueue) {
  for (int i = 0; i < 4; ++i) ASSERT_OK(Submit("a", 1));
  const absl::Status refused = Submit("a", 1);
  EXPECT_EQ(ErrorReason(refused), "QUEUE_FULL");
  EXPECT_EQ(ErrorMetadata(refused).count("retry_after_ms"), 1);
  EXPECT_OK(Submit("b", 1));
  released_.Notify();
}

TEST(StepExecutorWithoutAThreadTest, WorksWhenItIsToldTo) {
  FakeClock clock;
  StepExecutor executor(*kernels::CreateBackend("cpu", {.threads = 1}), 8, clock, /*ordinal=*/0,
                        StepExecutor::Runner::kCaller);
  EXPECT_FALSE(executor.RunNext());
  std::string order;
  for (const char* const tenant : {"a", "a", "b"}) {
    ASSERT_OK(
        executor.Submit(tenant, [&order, tenant](StepExecutor::Device&) { order += tenant; }));
  }
  EXPECT_TRUE(executor.RunNext());
  EXPECT_EQ(order, "a");
  EXPECT_EQ(executor.queue_length(), 2);
  executor.Stop();
  EXPECT_EQ(order.size(), 3);
  EXPECT_FALSE(executor.RunNext());
}

}  // namespace
}  // namespace mnemosyne::server
