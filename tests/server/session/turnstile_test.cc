#include "server/session/turnstile.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "base/error.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

TEST(TurnstileTest, GrantsTurnsInTheOrderOfAsking) {
  const auto turnstile = std::make_shared<Turnstile>();
  std::vector<int> order;
  std::unique_ptr<Turnstile::Turn> first;
  EXPECT_OK(turnstile->Ask([&](auto turn) { first = std::move(turn); }));
  for (int i = 0; i < 3; ++i) {
    EXPECT_OK(turnstile->Ask([&order, i](auto) { order.push_back(i); }));
  }
  EXPECT_TRUE(order.empty());
  first.reset();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
}

TEST(TurnstileTest, RefusesMoreThanItsLineHolds) {
  const auto turnstile = std::make_shared<Turnstile>();
  std::unique_ptr<Turnstile::Turn> first;
  EXPECT_OK(turnstile->Ask([&](auto turn) { first = std::move(turn); }));
  size_t served = 0;
  for (size_t i = 0; i < Turnstile::kLineMax; ++i) {
    EXPECT_OK(turnstile->Ask([&](auto) { ++served; }));
  }
  const absl::Status refused = turnstile->Ask([&](auto) { ++served; });
  EXPECT_EQ(ErrorReason(refused), "QUEUE_FULL");
  first.reset();
  EXPECT_EQ(served, Turnstile::kLineMax);
}

TEST(TurnstileTest, NeverGrantsTwoTurnsAtOnce) {
  const auto turnstile = std::make_shared<Turnstile>();
  int inside = 0;
  int served = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 1000; ++j) {
        // A full line is refused; the turn itself guards the counters.
        (void)turnstile->Ask([&](auto) {
          EXPECT_EQ(++inside, 1);
          ++served;
          --inside;
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::unique_ptr<Turnstile::Turn> last;
  EXPECT_OK(turnstile->Ask([&](auto turn) { last = std::move(turn); }));
  EXPECT_NE(last, nullptr);
  EXPECT_GT(served, 0);
}

}  // namespace
}  // namespace mnemosyne::server
