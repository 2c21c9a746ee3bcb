#include "server/rpc/connection_guard.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

namespace mnemosyne::server {
namespace {

// A connection over TCP on loopback: our end, and the other one.
class Pair {
 public:
  Pair() {
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const place = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(listener, place, size), 0);
    EXPECT_EQ(::listen(listener, 1), 0);
    EXPECT_EQ(::getsockname(listener, place, &size), 0);
    theirs_ = ::socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_EQ(::connect(theirs_, place, size), 0);
    ours_ = ::accept(listener, nullptr, nullptr);
    ::close(listener);
  }
  ~Pair() {
    ::shutdown(ours_, SHUT_RDWR);
    ::close(ours_);
    ::close(theirs_);
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;

  int ours() const { return ours_; }

  // As whoever serves the connection does at its end.
  void Serve() const { ::shutdown(ours_, SHUT_RDWR); }
  void Leave() const { ::shutdown(theirs_, SHUT_RDWR); }

  void Send(size_t bytes) const {
    const std::string text(bytes, 'x');
    EXPECT_EQ(::send(theirs_, text.data(), text.size(), 0), static_cast<ssize_t>(bytes));
  }

  // Whether the other end was ended.
  bool Ended() const {
    char byte = 0;
    const ssize_t got = ::recv(theirs_, &byte, 1, MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN);
  }

 private:
  int ours_ = -1;
  int theirs_ = -1;
};

class ConnectionGuardTest : public ::testing::Test {
 protected:
  void AwaitCount(const ConnectionGuard& guard, size_t count) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (guard.count() != count && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
    EXPECT_EQ(guard.count(), count);
  }

  FakeClock clock_;
  std::array<Pair, 4> pairs_;
};

TEST_F(ConnectionGuardTest, CountsConnectionsUntilTheirEnd) {
  ConnectionGuard guard({.connections_max = 4}, clock_);
  EXPECT_TRUE(guard.Admit(pairs_[0].ours(), "a"));
  EXPECT_TRUE(guard.Admit(pairs_[1].ours(), "b"));
  EXPECT_EQ(guard.count(), 2U);

  pairs_[0].Leave();
  pairs_[0].Serve();

  AwaitCount(guard, 1);
  EXPECT_FALSE(pairs_[1].Ended());
}

TEST_F(ConnectionGuardTest, StrangersMakeRoomTheOldestFirst) {
  ConnectionGuard guard({.connections_max = 2}, clock_);
  EXPECT_TRUE(guard.Admit(pairs_[0].ours(), "known"));
  EXPECT_TRUE(guard.Admit(pairs_[1].ours(), "stranger"));
  guard.Identified("known", "");

  EXPECT_TRUE(guard.Admit(pairs_[2].ours(), "newcomer"));

  EXPECT_FALSE(pairs_[0].Ended());
  EXPECT_TRUE(pairs_[1].Ended());
  EXPECT_FALSE(pairs_[2].Ended());
  EXPECT_EQ(guard.count(), 2U);
}

TEST_F(ConnectionGuardTest, WithoutTenantsKnownCallersKeepTheirPlaces) {
  ConnectionGuard guard({.connections_max = 1}, clock_);
  EXPECT_TRUE(guard.Admit(pairs_[0].ours(), "known"));
  guard.Identified("known", "");

  EXPECT_FALSE(guard.Admit(pairs_[1].ours(), "newcomer"));

  EXPECT_FALSE(pairs_[0].Ended());
}

TEST_F(ConnectionGuardTest, ATenantCannotShutOthersOut) {
  ConnectionGuard guard({.connections_max = 3, .tenants = true}, clock_);
  const std::vector<std::string> peers = {"a", "b", "c"};
  for (size_t i = 0; i < peers.size(); ++i) {
    EXPECT_TRUE(guard.Admit(pairs_[i].ours(), peers[i]));
    guard.Identified(peers[i], i == 0 ? "modest" : "greedy");
  }

  EXPECT_TRUE(guard.Admit(pairs_[3].ours(), "d"));

  EXPECT_FALSE(pairs_[0].Ended());
  EXPECT_FALSE(pairs_[1].Ended());
  EXPECT_TRUE(pairs_[2].Ended()) << "the greedy tenant's newest connection makes room";
}

TEST_F(ConnectionGuardTest, EndsWhoDoesNotSayWhoItIsInTime) {
  ConnectionGuard guard({.identify_seconds = 60}, clock_);
  EXPECT_TRUE(guard.Admit(pairs_[0].ours(), "silent"));
  EXPECT_TRUE(guard.Admit(pairs_[1].ours(), "known"));
  guard.Identified("known", "");

  clock_.Advance(std::chrono::seconds(59));
  guard.Sweep();
  EXPECT_FALSE(pairs_[0].Ended());
  clock_.Advance(std::chrono::seconds(1));
  guard.Sweep();

  EXPECT_TRUE(pairs_[0].Ended());
  EXPECT_FALSE(pairs_[1].Ended());
}

TEST_F(ConnectionGuardTest, TheHeaviestIsWhoSentMostThatWasNotTaken) {
  constexpr size_t kBytes = 200 << 10;
  ConnectionGuard guard({.message_bytes_max = 0}, clock_);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(guard.Admit(pairs_[i].ours(), std::to_string(i)));
  EXPECT_FALSE(guard.EndHeaviest());
  pairs_[0].Send(kBytes);
  pairs_[1].Send(kBytes);
  guard.Count("0").Took(kBytes);

  EXPECT_TRUE(guard.EndHeaviest());

  EXPECT_FALSE(pairs_[0].Ended());
  EXPECT_TRUE(pairs_[1].Ended());
  EXPECT_FALSE(pairs_[2].Ended());
}

TEST_F(ConnectionGuardTest, OneMessageOnItsWayIsNotHeldAgainstAKnownClient) {
  constexpr size_t kBytes = 200 << 10;
  ConnectionGuard guard({.message_bytes_max = kBytes}, clock_);
  EXPECT_TRUE(guard.Admit(pairs_[0].ours(), "known"));
  EXPECT_TRUE(guard.Admit(pairs_[1].ours(), "stranger"));
  guard.Identified("known", "");
  pairs_[0].Send(kBytes);
  pairs_[1].Send(kBytes);

  EXPECT_TRUE(guard.EndHeaviest());

  EXPECT_FALSE(pairs_[0].Ended());
  EXPECT_TRUE(pairs_[1].Ended());
}

TEST_F(ConnectionGuardTest, AnswersThatAreNotReadWeighUntilTheyAre) {
  constexpr int64_t kBytes = 200 << 10;
  ConnectionGuard guard({.message_bytes_max = 0}, clock_);
  EXPECT_TRUE(guard.Admit(pairs_[0].ours(), "a"));
  ConnectionCall call = guard.Count("a");
  call.Answers(kBytes);
  call.Answers(0);
  EXPECT_FALSE(guard.EndHeaviest());
  {
    ConnectionCall other = guard.Count("a");
    other.Answers(kBytes);
  }
  EXPECT_FALSE(guard.EndHeaviest());

  call.Answers(kBytes);

  EXPECT_TRUE(guard.EndHeaviest());
  EXPECT_TRUE(pairs_[0].Ended());
}

TEST_F(ConnectionGuardTest, TakesNobodyWhileItIsClosed) {
  ConnectionGuard guard({}, clock_);
  guard.Close(true);
  EXPECT_FALSE(guard.Admit(pairs_[0].ours(), "a"));
  guard.Close(false);
  EXPECT_TRUE(guard.Admit(pairs_[0].ours(), "a"));
}

}  // namespace
}  // namespace mnemosyne::server
