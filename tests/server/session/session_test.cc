#include "server/session/session.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "tests/server/testing/test_bench.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

TEST(SessionTest, TheNewerHolderWins) {
  TestBench bench;
  const auto session = bench.Create();
  std::vector<absl::Status> evictions;
  const auto first = session->Take([&](const absl::Status& why) { evictions.push_back(why); });
  const auto second = session->Take(nullptr);
  ASSERT_EQ(evictions.size(), 1);
  EXPECT_EQ(ErrorReason(evictions[0]), "SUPERSEDED");
  EXPECT_EQ(*second, *first + 1);
  EXPECT_EQ(ErrorReason(session->CheckHolder(*first)), "SUPERSEDED");
  EXPECT_OK(session->CheckHolder(*second));
}

TEST(SessionTest, ALateOpeningOfAStreamTakesNothingOver) {
  TestBench bench;
  const auto session = bench.Create();
  ASSERT_OK(session->Take(nullptr, {.stream = 7, .attempt = 1}));
  const auto third = session->Take(nullptr, {.stream = 7, .attempt = 3});
  ASSERT_OK(third);

  const auto second = session->Take(nullptr, {.stream = 7, .attempt = 2});

  EXPECT_EQ(ErrorReason(second.status()), "STALE_OPENING");
  EXPECT_OK(session->CheckHolder(*third));
  // Another stream, or one that says nothing of itself, is no late opening.
  EXPECT_OK(session->Take(nullptr, {.stream = 8, .attempt = 1}));
  EXPECT_OK(session->Take(nullptr));
}

TEST(SessionTest, AReleaseOfAnOldEpochChangesNothing) {
  TestBench bench;
  const auto session = bench.Create();
  const auto first = session->Take(nullptr);
  const auto second = session->Take(nullptr);
  session->Release(*first);
  EXPECT_TRUE(session->progress().held);
  session->Release(*second);
  EXPECT_FALSE(session->progress().held);
}

TEST(SessionTest, NobodyTakesAQuarantinedSession) {
  TestBench bench;
  const auto session = bench.Create();
  std::vector<absl::Status> evictions;
  ASSERT_OK(session->Take([&](const absl::Status& why) { evictions.push_back(why); }));
  session->Quarantine(Internal("a check failed"));
  ASSERT_EQ(evictions.size(), 1);
  EXPECT_EQ(ErrorReason(evictions[0]), "SESSION_FAULTED");
  EXPECT_EQ(session->Take(nullptr).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace mnemosyne::server
