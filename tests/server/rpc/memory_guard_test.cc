#include "server/rpc/memory_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

namespace mnemosyne::server {
namespace {

class MemoryGuardTest : public ::testing::Test {
 protected:
  MemoryGuardTest() {
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair_.data()), 0);
    EXPECT_TRUE(connections_.Admit(pair_[0], "a"));
  }
  ~MemoryGuardTest() override {
    for (const int fd : pair_) ::close(fd);
  }

  bool Ended() const {
    char byte = 0;
    return ::recv(pair_[1], &byte, 1, MSG_DONTWAIT) == 0;
  }

  // Waits until the guard has looked twice, which reads up to four times.
  void AwaitLooks() const {
    const int looks = looks_;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (looks_ < looks + 4 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
  }

  static constexpr int64_t kBytesMax = 1000;
  std::array<int, 2> pair_{};
  std::atomic<int64_t> resident_ = kBytesMax;
  std::atomic<int64_t> in_use_ = kBytesMax;
  std::atomic<int> looks_ = 0;
  FakeClock clock_;
  ConnectionGuard connections_{{.message_bytes_max = 0}, clock_};
  MemoryGuard guard_{[] { return kBytesMax; },
                     [this](bool) {
                       ++looks_;
                       return ProcessMemory{.resident = resident_, .in_use = in_use_};
                     },
                     connections_, clock_};
};

TEST_F(MemoryGuardTest, LeavesConnectionsAloneBelowTheBound) {
  ConnectionCall call = connections_.Count("a");
  call.Answers(1 << 20);
  AwaitLooks();
  EXPECT_FALSE(Ended());
}

TEST_F(MemoryGuardTest, EndsTheHeaviestAndTakesNobodyBeyondIt) {
  ConnectionCall call = connections_.Count("a");
  call.Answers(1 << 20);
  in_use_ = kBytesMax + 1;
  resident_ = kBytesMax + 1;
  AwaitLooks();
  EXPECT_TRUE(Ended());
  EXPECT_FALSE(connections_.Admit(pair_[0], "b"));

  resident_ = kBytesMax;
  AwaitLooks();
  EXPECT_FALSE(connections_.Admit(pair_[0], "b"));  // They would be back at once.
  clock_.Advance(std::chrono::seconds(1));
  AwaitLooks();
  EXPECT_TRUE(connections_.Admit(pair_[0], "b"));
}

TEST_F(MemoryGuardTest, WhereNoConnectionIsToBlameAllGoOn) {
  in_use_ = kBytesMax + 1;
  resident_ = kBytesMax + 1;
  AwaitLooks();
  EXPECT_FALSE(Ended());
  EXPECT_TRUE(connections_.Admit(pair_[0], "b"));
}

TEST_F(MemoryGuardTest, TakesConnectionsAgainOnceTheHeavyOnesAreGone) {
  {
    ConnectionCall call = connections_.Count("a");
    call.Answers(1 << 20);
    in_use_ = kBytesMax + 1;
    resident_ = kBytesMax + 1;
    AwaitLooks();
  }
  EXPECT_FALSE(connections_.Admit(pair_[0], "b"));
  clock_.Advance(std::chrono::seconds(1));
  AwaitLooks();
  EXPECT_FALSE(connections_.Admit(pair_[0], "b"));  // They have not let go yet.
  in_use_ = kBytesMax;
  AwaitLooks();
  EXPECT_TRUE(connections_.Admit(pair_[0], "b"));
}

TEST_F(MemoryGuardTest, TakesConnectionsAgainWhereMemoryIsNotOfThoseThatWereEnded) {
  {
    ConnectionCall call = connections_.Count("a");
    call.Answers(1 << 20);
    in_use_ = kBytesMax + 1;
    resident_ = kBytesMax + 1;
    AwaitLooks();
  }
  clock_.Advance(std::chrono::seconds(9));
  AwaitLooks();
  EXPECT_FALSE(connections_.Admit(pair_[0], "b"));
  clock_.Advance(std::chrono::seconds(1));
  AwaitLooks();
  EXPECT_TRUE(connections_.Admit(pair_[0], "b"));
}

TEST_F(MemoryGuardTest, EndsNobodyForWhatTheAllocatorKeeps) {
  ConnectionCall call = connections_.Count("a");
  call.Answers(1 << 20);
  resident_ = kBytesMax + 1;
  AwaitLooks();
  EXPECT_FALSE(Ended());
}

TEST(ProcessMemoryTest, CountsWhatIsTouched) {
  const ProcessMemory before = ReadProcessMemory(/*in_use=*/true);
  EXPECT_GT(before.in_use, 0);
  EXPECT_GE(before.resident, before.in_use);
  constexpr size_t kBytes = 64 << 20;
  const std::string text(kBytes, 'x');
  EXPECT_GE(ReadProcessMemory(true).resident, before.resident + int64_t{kBytes / 2});
}

TEST(ReadProcessMemoryTest, IsNotBlindWhenAllFilesAreUsedUp) {
  ASSERT_GT(ReadProcessMemory(/*in_use=*/false).resident, 0);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);

  const int another = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  const ProcessMemory memory = ReadProcessMemory(/*in_use=*/true);

  EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_LT(another, 0);
  EXPECT_GT(memory.resident, 0);
  EXPECT_GT(memory.in_use, 0);
}

}  // namespace
}  // namespace mnemosyne::server
