#include "base/mutex.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "tests/testing/notification.h"

namespace mnemosyne {
namespace {

TEST(MutexTest, LetsOneInAtATime) {
  Mutex mutex;
  int count = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 10'000; ++j) {
        MutexLock lock(&mutex);
        ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, 40'000);
}

TEST(MutexTest, WakesWhoWaitsForAConditionWhenItBecomesTrue) {
  Mutex mutex;
  int turn = 0;
  std::thread other([&] {
    for (int i = 1; i < 100; i += 2) {
      MutexLock lock(&mutex);
      lock.Await([&] { return turn == i; });
      ++turn;
    }
  });
  for (int i = 0; i < 100; i += 2) {
    MutexLock lock(&mutex);
    lock.Await([&] { return turn == i; });
    ++turn;
  }
  other.join();
  EXPECT_EQ(turn, 100);
}

TEST(MutexTest, GivesUpWaitingAfterItsPatience) {
  Mutex mutex;
  MutexLock lock(&mutex);
  EXPECT_FALSE(lock.AwaitFor(std::chrono::milliseconds(1), [] { return false; }));
  EXPECT_TRUE(lock.AwaitFor(std::chrono::milliseconds(1), [] { return true; }));
}

TEST(NotificationTest, MayGoAsSoonAsTheWaitIsOver) {
  for (int i = 0; i < 100; ++i) {
    auto notification = std::make_unique<testing::Notification>();
    std::thread other([raw = notification.get()] { raw->Notify(); });
    notification->WaitForNotification();
    notification.reset();
    other.join();
  }
}

}  // namespace
}  // namespace mnemosyne
