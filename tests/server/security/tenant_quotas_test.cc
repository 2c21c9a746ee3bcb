#include "server/security/tenant_quotas.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <optional>

#include "base/error.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

class TenantQuotasTest : public ::testing::Test {
 protected:
  FakeClock clock_;
  TenantLimits limits_;
  TenantQuotas quotas_{[this](std::string_view) { return limits_; }, clock_};
};

TEST_F(TenantQuotasTest, TakesWhatFitsAndSaysWhatWould) {
  limits_.memory_bytes = 100;
  auto share = quotas_.Take("a", {.sessions = 1, .memory_bytes = 70});
  ASSERT_OK(share);
  const absl::Status status = quotas_.Take("a", {.memory_bytes = 31}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(status), "TENANT_LIMIT");
  EXPECT_EQ(ErrorMetadata(status).at("available"), "30");
  EXPECT_OK(quotas_.Take("b", {.memory_bytes = 100}));
}

TEST_F(TenantQuotasTest, ARefusalSaysTheCure) {
  limits_.sessions = 1;
  const auto share = quotas_.Take("a", {.sessions = 1});
  ASSERT_OK(share);
  EXPECT_TRUE(quotas_.MayEverHave("a", {.sessions = 1}));
  EXPECT_THAT(std::string(ErrorMessage(quotas_.Take("a", {.sessions = 1}).status())),
              ::testing::HasSubstr("delete one"));
  EXPECT_FALSE(quotas_.MayEverHave("a", {.sessions = 2}));
  EXPECT_THAT(std::string(ErrorMessage(quotas_.Take("a", {.sessions = 2}).status())),
              ::testing::HasSubstr("use less"));
}

TEST_F(TenantQuotasTest, ARefusalTakesNothing) {
  limits_.sessions = 5;
  limits_.parameters = 1;
  EXPECT_FALSE(quotas_.Take("a", {.sessions = 5, .parameters = 2}).ok());
  EXPECT_EQ(quotas_.Held("a").sessions, 0);
}

TEST_F(TenantQuotasTest, AShareIsGivenBackOnce) {
  limits_.streams = 1;
  {
    auto share = quotas_.Take("a", {.streams = 1});
    ASSERT_OK(share);
    const TenantQuotas::Share moved = *std::move(share);
    EXPECT_FALSE(quotas_.Take("a", {.streams = 1}).ok());
  }
  EXPECT_EQ(quotas_.Held("a").streams, 0);
  EXPECT_OK(quotas_.Take("a", {.streams = 1}));
}

TEST_F(TenantQuotasTest, ALimitThatShrinksTakesNothingAway) {
  auto share = quotas_.Take("a", {.sessions = 4});
  limits_.sessions = 2;
  const absl::Status status = quotas_.Take("a", {.sessions = 1}).status();
  EXPECT_EQ(ErrorMetadata(status).at("available"), "0");
}

TEST_F(TenantQuotasTest, StepsComeAtTheirRateAndASecondsWorthAtOnce) {
  limits_.steps_per_second = 10;
  for (int i = 0; i < 10; ++i) EXPECT_OK(quotas_.CountStep("a"));
  const absl::Status status = quotas_.CountStep("a");
  EXPECT_EQ(ErrorReason(status), "RATE_LIMITED");
  EXPECT_EQ(ErrorMetadata(status).at("retry_after_ms"), "100");
  EXPECT_OK(quotas_.CountStep("b"));
  clock_.Advance(std::chrono::milliseconds(100));
  EXPECT_OK(quotas_.CountStep("a"));
  EXPECT_FALSE(quotas_.CountStep("a").ok());
  clock_.Advance(std::chrono::hours(1));
  for (int i = 0; i < 10; ++i) EXPECT_OK(quotas_.CountStep("a"));
  EXPECT_FALSE(quotas_.CountStep("a").ok());
}

TEST_F(TenantQuotasTest, CreationsAreCountedByTheMinute) {
  limits_.creations_per_minute = 6;
  EXPECT_OK(quotas_.CountCreation("a"));
  EXPECT_EQ(ErrorMetadata(quotas_.CountCreation("a")).at("retry_after_ms"), "10000");
  clock_.Advance(std::chrono::seconds(10));
  EXPECT_OK(quotas_.CountCreation("a"));
}

TEST_F(TenantQuotasTest, AllTenantsTogetherHaveARateToo) {
  quotas_.set_everyone({.creations_per_minute = 60});
  EXPECT_OK(quotas_.CountCreation("a"));
  const absl::Status status = quotas_.CountCreation("b");
  EXPECT_EQ(ErrorReason(status), "RATE_LIMITED");
  EXPECT_EQ(ErrorMetadata(status).at("retry_after_ms"), "1000");
  clock_.Advance(std::chrono::seconds(1));
  EXPECT_OK(quotas_.CountCreation("b"));
}

TEST_F(TenantQuotasTest, BoundsTheDevicesMemoryApartAndSaysWhenStreamsComeBack) {
  limits_.device_bytes = 10;
  limits_.streams = 1;
  EXPECT_FALSE(quotas_.Take("a", {.memory_bytes = 100, .device_bytes = 11}).ok());
  const auto share = quotas_.Take("a", {.device_bytes = 10, .streams = 1});
  ASSERT_OK(share);
  const absl::Status status = quotas_.Take("a", {.streams = 1}).status();
  EXPECT_EQ(ErrorMetadata(status).at("retry_after_ms"), "1000");
  EXPECT_FALSE(ErrorMetadata(quotas_.Take("a", {.streams = 2}).status()).contains("retry_after_ms"))
      << "time does not cure what can never fit";
}

}  // namespace
}  // namespace mnemosyne::server
