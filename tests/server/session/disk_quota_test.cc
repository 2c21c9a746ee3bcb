#include "server/session/disk_quota.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

class DiskQuotaTest : public ::testing::Test {
 protected:
  DiskQuota Make(int64_t bytes_max = 0) {
    return {[this](std::string_view tenant) { return tenant == "free" ? 0 : limit_; }, bytes_max};
  }

  int64_t limit_ = 100;
};

TEST_F(DiskQuotaTest, AddsWhatIsWrittenToWhatWasCounted) {
  DiskQuota quota = Make();
  quota.Counted({{"a", 50}}, 0);
  EXPECT_OK(quota.Take("a", 30));

  const absl::Status status = quota.Take("a", 21);

  EXPECT_EQ(ErrorReason(status), "TENANT_LIMIT");
  EXPECT_EQ(ErrorMetadata(status).at("limit"), "100");
  EXPECT_EQ(ErrorMetadata(status).at("available"), "20");
  EXPECT_OK(quota.Take("a", 20));
  EXPECT_OK(quota.Take("b", 100));
}

TEST_F(DiskQuotaTest, ACountTakesThePlaceOfAllBefore) {
  DiskQuota quota = Make();
  EXPECT_OK(quota.Take("a", 100));
  quota.Counted({{"a", 10}}, 0);
  EXPECT_OK(quota.Take("a", 90));
  EXPECT_FALSE(quota.Take("a", 1).ok());
}

TEST_F(DiskQuotaTest, LeavesRoomToSpare) {
  DiskQuota quota = Make();
  EXPECT_FALSE(quota.Take("a", 71, /*spare=*/30).ok());
  EXPECT_OK(quota.Take("a", 70, /*spare=*/30));
  EXPECT_OK(quota.Take("a", 30));
}

TEST_F(DiskQuotaTest, FollowsALimitThatChanges) {
  DiskQuota quota = Make();
  EXPECT_OK(quota.Take("a", 80));
  limit_ = 50;
  EXPECT_EQ(ErrorMetadata(quota.Take("a", 1)).at("available"), "0");
  limit_ = 0;
  EXPECT_OK(quota.Take("a", 1000));
}

TEST_F(DiskQuotaTest, AllTogetherHaveABoundToo) {
  DiskQuota quota = Make(/*bytes_max=*/1000);
  EXPECT_TRUE(quota.Bounds("free"));
  quota.Counted({{"free", 600}}, 950);  // Some of it is nobody's.

  const absl::Status status = quota.Take("free", 51);

  EXPECT_EQ(ErrorReason(status), "DISK_FULL");
  EXPECT_EQ(ErrorMetadata(status).at("available"), "50");
  EXPECT_OK(quota.Take("a", 50));
  EXPECT_FALSE(quota.Take("free", 1).ok());
}

TEST_F(DiskQuotaTest, BoundsNobodyByDefault) {
  DiskQuota quota(nullptr, 0);
  EXPECT_FALSE(quota.Bounds("a"));
  EXPECT_OK(quota.Take("a", int64_t{1} << 60));
}

}  // namespace
}  // namespace mnemosyne::server
