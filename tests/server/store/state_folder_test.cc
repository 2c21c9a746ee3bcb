#include "server/store/state_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/error.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using mnemosyne::testing::IsError;

class StateFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/stateXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
    auto folder = StateFolder::Open(path_);
    ASSERT_OK(folder);
    folder_ = *std::move(folder);
    ASSERT_OK(session().Make());
  }
  void TearDown() override {
    folder_.reset();
    std::filesystem::remove_all(path_);
  }
  SessionFolder session() { return folder_->Session("s"); }
  Generation AddGeneration(int64_t step) {
    const Generation next = session().Next(step);
    std::ofstream(next.path) << "contents " << step;
    return next;
  }

  std::filesystem::path path_;
  std::unique_ptr<StateFolder> folder_;
};

TEST_F(StateFolderTest, IsUsedByOneDaemonAtATime) {
  EXPECT_THAT(StateFolder::Open(path_),
              IsError(absl::StatusCode::kFailedPrecondition, "another mnemosyned uses it"));
  folder_.reset();
  EXPECT_OK(StateFolder::Open(path_));
}

TEST_F(StateFolderTest, RemovesWhatWasLeftUnfinished) {
  std::ofstream(session().path() / "000000001-000000000001.safetensors.new") << "half";
  std::filesystem::create_directory(path_ / "sessions" / "gone.new");
  folder_.reset();
  folder_ = *StateFolder::Open(path_);
  EXPECT_TRUE(std::filesystem::is_empty(session().path()));
  EXPECT_EQ(folder_->Sessions(), std::vector<std::string>{"s"});
}

TEST_F(StateFolderTest, ListsGenerationsNewestFirstAndPrunesTheOldest) {
  for (const int64_t step : {5, 9, 7}) AddGeneration(step);
  for (const int64_t log : {1, 2, 3}) std::ofstream(session().LogOf(log)) << "log";

  session().Prune(2);

  const auto generations = session().Generations();
  ASSERT_EQ(generations.size(), 2U);
  EXPECT_EQ(generations[0].step, 7);
  EXPECT_EQ(generations[1].step, 9);
  EXPECT_EQ(session().Logs(), (std::vector<int64_t>{2, 3}));
}

TEST_F(StateFolderTest, ANumberIsNotUsedAgainAfterARottenSnapshot) {
  AddGeneration(5);
  session().SetAside(AddGeneration(6));
  EXPECT_EQ(session().Generations().size(), 1U);
  EXPECT_EQ(session().Next(7).number, 3);
}

TEST_F(StateFolderTest, APinnedSnapshotBecomesTheNewestAgain) {
  AddGeneration(5);
  ASSERT_OK(session().Pin("checkpoint-5"));
  AddGeneration(6);
  AddGeneration(7);
  session().Prune(1);

  const auto rewound = session().Rewind("checkpoint-5", 5);

  ASSERT_OK(rewound);
  EXPECT_EQ(session().Generations().front().path, rewound->path);
  std::ifstream file(rewound->path);
  std::string text;
  std::getline(file, text);
  EXPECT_EQ(text, "contents 5");
  EXPECT_EQ(session().Pins(), std::vector<std::string>{"checkpoint-5"});
}

TEST_F(StateFolderTest, RefusesPinsThatAreNoPlainNames) {
  AddGeneration(5);
  for (const char* name : {"", "a/b", "../x", " "}) {
    EXPECT_EQ(ErrorReason(session().Pin(name)), "INVALID_PIN") << name;
  }
  EXPECT_EQ(ErrorReason(session().FindPin("none").status()), "PIN_NOT_FOUND");
  for (size_t i = 0; i < SessionFolder::kPinsMax; ++i) {
    EXPECT_OK(session().Pin("p" + std::to_string(i)));
  }
  EXPECT_EQ(ErrorReason(session().Pin("one-more")), "TOO_MANY_PINS");
  EXPECT_OK(session().Pin("p0"));
}

TEST_F(StateFolderTest, RemembersTheEpochAndDistrustsARottenOne) {
  EXPECT_EQ(session().ReadEpoch(), 0);
  ASSERT_OK(session().StoreEpoch(42));
  EXPECT_EQ(session().ReadEpoch(), 42);
  std::ofstream(session().path() / "epoch") << "000000000000002b 00000000\n";
  EXPECT_EQ(session().ReadEpoch(), 0);
}

TEST_F(StateFolderTest, KeepsACopyOfAModelOnce) {
  const std::string model = "weights";
  EXPECT_EQ(folder_->FindModel("abc"), std::nullopt);
  ASSERT_OK(folder_->KeepModel("abc", std::as_bytes(std::span(model))));
  ASSERT_OK(folder_->KeepModel("abc", {}));
  EXPECT_EQ(std::filesystem::file_size(*folder_->FindModel("abc")), model.size());
}

TEST_F(StateFolderTest, RemovesAndExpiresSessions) {
  ASSERT_OK(folder_->Session("t").Make());
  session().Remove();
  EXPECT_EQ(folder_->Sessions(), std::vector<std::string>{"t"});
  ASSERT_OK(folder_->Expire("t", 1));
  EXPECT_TRUE(folder_->Sessions().empty());
  EXPECT_TRUE(std::filesystem::exists(path_ / "expired" / "t"));
}

}  // namespace
}  // namespace mnemosyne::server
