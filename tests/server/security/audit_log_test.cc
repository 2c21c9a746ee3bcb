#include "server/security/audit_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "tests/testing/certificates.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

class AuditLogTest : public ::testing::Test {
 protected:
  AuditLogTest() : folder_(mnemosyne::testing::MakeTestFolder()), path_(folder_ + "/audit") {}
  ~AuditLogTest() override { std::filesystem::remove_all(folder_); }

  std::vector<nlohmann::json> Events() const {
    std::vector<nlohmann::json> events;
    std::ifstream file(path_);
    for (std::string line; std::getline(file, line);) events.push_back(nlohmann::json::parse(line));
    return events;
  }

  const std::string folder_;
  const std::string path_;
  FakeClock clock_;
};

TEST_F(AuditLogTest, WritesALineForAnEvent) {
  const auto audit = AuditLog::Open(path_, clock_);
  ASSERT_OK(audit);
  (*audit)->Record({.tenant = "vision", .means = "token:1"}, "ipv4:10.0.0.1:2", "CreateSession",
                   "sessions/1", absl::OkStatus());
  const auto events = Events();
  ASSERT_EQ(events.size(), 1);
  EXPECT_EQ(events[0]["time"], "2023-11-14T22:13:20.000Z");
  EXPECT_EQ(events[0]["tenant"], "vision");
  EXPECT_EQ(events[0]["action"], "CreateSession");
  EXPECT_EQ(events[0]["session"], "sessions/1");
  EXPECT_EQ(events[0]["outcome"], "OK");
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
}

TEST_F(AuditLogTest, NobodyForgesALine) {
  const auto audit = AuditLog::Open(path_, clock_);
  ASSERT_OK(audit);
  (*audit)->Record({}, "peer", "GetSession", "x\"}\n{\"tenant\":\"y\xff", absl::OkStatus());
  EXPECT_EQ(Events().size(), 1);
}

TEST_F(AuditLogTest, StrangersCannotFillTheDisk) {
  const auto audit = AuditLog::Open(path_, clock_);
  ASSERT_OK(audit);
  const absl::Status refused = absl::UnauthenticatedError("no");
  for (int i = 0; i < 1000; ++i) (*audit)->RecordStranger("peer", "identify", refused);
  EXPECT_EQ(Events().size(), 100);
  clock_.Advance(std::chrono::minutes(1));
  (*audit)->RecordStranger("peer", "identify", refused);
  EXPECT_EQ(Events().back()["suppressed"], 900);
}

TEST_F(AuditLogTest, OpensTheFileAnewAfterARotation) {
  const auto audit = AuditLog::Open(path_, clock_);
  ASSERT_OK(audit);
  (*audit)->Record({}, "peer", "a", "", absl::OkStatus());
  std::filesystem::rename(path_, path_ + ".1");
  (*audit)->Reopen();
  (*audit)->Record({}, "peer", "b", "", absl::OkStatus());
  ASSERT_EQ(Events().size(), 1);
  EXPECT_EQ(Events()[0]["action"], "b");
}

}  // namespace
}  // namespace mnemosyne::server
