#include "server/store/step_log.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using mnemosyne::testing::IsError;

class StepLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/logXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ / "000000001.log";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Append(const std::vector<std::string>& records) {
    auto log = StepLog::Open(path_);
    ASSERT_OK(log);
    for (const std::string& record : records) {
      const std::span<const std::byte> pieces[] = {std::as_bytes(std::span(record)).first(1),
                                                   std::as_bytes(std::span(record)).subspan(1)};
      ASSERT_OK((*log)->Append(pieces));
    }
    ASSERT_OK((*log)->Sync());
  }
  absl::Status Read(std::vector<std::string>& records) {
    records.clear();
    return ReadStepLog(path_, [&](std::span<const std::byte> bytes) {
      records.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return absl::OkStatus();
    });
  }
  std::string Contents() {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Put(const std::string& contents) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << contents;
  }

  std::filesystem::path folder_;
  std::filesystem::path path_;
};

TEST_F(StepLogTest, GivesItsRecordsBackInOrder) {
  Append({"one", "two"});
  Append({"three"});
  std::vector<std::string> records;
  EXPECT_OK(Read(records));
  EXPECT_EQ(records, (std::vector<std::string>{"one", "two", "three"}));
}

TEST_F(StepLogTest, ATornLastRecordIsCutOffAndTheLogGoesOn) {
  Append({"one", "two"});
  const std::string whole = Contents();
  const size_t first = 16 + 3;
  for (size_t size = first; size < whole.size(); ++size) {
    Put(whole.substr(0, size));
    std::vector<std::string> records;
    EXPECT_OK(Read(records));
    EXPECT_EQ(records, std::vector<std::string>{"one"}) << size;
    Append({"three"});
    EXPECT_OK(Read(records));
    EXPECT_EQ(records, (std::vector<std::string>{"one", "three"})) << size;
  }
}

TEST_F(StepLogTest, ADamagedRecordBeforeOthersIsNoTornOne) {
  Append({"one", "two", "three"});
  const std::string whole = Contents();
  for (size_t place = 19; place < 38; ++place) {
    std::string damaged = whole;
    damaged[place] = static_cast<char>(damaged[place] ^ 1);
    Put(damaged);
    std::vector<std::string> records;
    EXPECT_THAT(Read(records), IsError(absl::StatusCode::kDataLoss, "others followed"));
    EXPECT_EQ(records, std::vector<std::string>{"one"});
    // What followed can no longer be reached: it is gone, and the log is whole again.
    EXPECT_OK(Read(records));
  }
}

TEST_F(StepLogTest, HasAnEndAndKeepsWhatIsBeforeIt) {
  const std::string text(100, 'x');
  const auto record = std::as_bytes(std::span(text));
  {
    auto log = StepLog::Open(path_);
    ASSERT_TRUE(log.ok());
    (*log)->BoundTo({.bytes_max = 250});
    EXPECT_TRUE((*log)->Append(std::span(&record, 1)).ok());
    EXPECT_TRUE((*log)->Append(std::span(&record, 1)).ok());
    EXPECT_EQ(ErrorReason((*log)->Append(std::span(&record, 1))), "DISK_FULL");
    EXPECT_EQ(ErrorReason((*log)->Sync()), "DISK_FULL");
  }
  size_t records = 0;
  EXPECT_TRUE(ReadStepLog(path_, [&](auto) {
                ++records;
                return absl::OkStatus();
              }).ok());
  EXPECT_EQ(records, 2U);
}

TEST_F(StepLogTest, AsksBeforeItGrows) {
  const std::string text(100, 'x');
  const auto record = std::as_bytes(std::span(text));
  auto log = StepLog::Open(path_);
  ASSERT_TRUE(log.ok());
  int64_t left = 150;
  (*log)->BoundTo({.take = [&left](int64_t bytes) {
    if (bytes > left) return WithReason(ResourceExhausted("too much"), "TENANT_LIMIT");
    left -= bytes;
    return absl::OkStatus();
  }});

  EXPECT_TRUE((*log)->Append(std::span(&record, 1)).ok());
  EXPECT_EQ(150 - left, (*log)->byte_count());
  EXPECT_EQ(ErrorReason((*log)->Append(std::span(&record, 1))), "TENANT_LIMIT");

  EXPECT_EQ(150 - left, (*log)->byte_count()) << "a refusal writes nothing";
  EXPECT_EQ(ErrorReason((*log)->Sync()), "TENANT_LIMIT");
}

}  // namespace
}  // namespace mnemosyne::server
