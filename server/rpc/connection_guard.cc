#include "server/rpc/connection_guard.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <utility>
#include <vector>

namespace mnemosyne::server {
namespace {

constexpr std::chrono::seconds kSweepInterval(1);
constexpr int kSweepMs = 1000;

// In an event: that the thread is to stop. Connections are counted from 1.
constexpr uint64_t kStop = 0;

// What a call under way costs gRPC, roughly.
constexpr int64_t kCallBytes = 16 << 10;

// What no connection is ended for.
constexpr int64_t kWeightMin = 64 << 10;

// Connections that are ended before memory is looked at again.
constexpr size_t kEndedAtOnce = 8;

// Bytes that have come on a connection over TCP; 0 for others, whose clients are of this machine.
int64_t BytesReceived(int fd) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return 0;
  return static_cast<int64_t>(info.tcpi_bytes_received);
}

}  // namespace

ConnectionCall::ConnectionCall(std::shared_ptr<ConnectionAccount> account)
    : account_(std::move(account)) {
  if (account_ != nullptr) ++account_->calls;
}

ConnectionCall::ConnectionCall(ConnectionCall&& other) noexcept { *this = std::move(other); }

ConnectionCall& ConnectionCall::operator=(ConnectionCall&& other) noexcept {
  std::swap(account_, other.account_);
  std::swap(unread_, other.unread_);
  return *this;
}

ConnectionCall::~ConnectionCall() {
  if (account_ == nullptr) return;
  --account_->calls;
  account_->unread -= unread_;
}

void ConnectionCall::Took(int64_t bytes) {
  if (account_ != nullptr) account_->consumed += bytes;
}

void ConnectionCall::Answers(int64_t bytes) {
  if (account_ != nullptr) account_->unread += bytes - std::exchange(unread_, bytes);
}

ConnectionGuard::ConnectionGuard(const ConnectionLimits& limits, const Clock& clock)
    : limits_(limits),
      clock_(clock),
      epoll_fd_(::epoll_create1(EPOLL_CLOEXEC)),
      stop_fd_(::eventfd(0, EFD_CLOEXEC)) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kStop;
  ::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, stop_fd_, &event);
  thread_ = std::thread([this] { WatchUntilStopped(); });
}

ConnectionGuard::~ConnectionGuard() {
  const uint64_t one = 1;
  if (::write(stop_fd_, &one, sizeof(one)) > 0) thread_.join();
  {
    MutexLock lock(&mutex_);
    while (!connections_.empty()) Forget(connections_.begin());
  }
  ::close(stop_fd_);
  ::close(epoll_fd_);
}

bool ConnectionGuard::Admit(int fd, const std::string& peer) {
  MutexLock lock(&mutex_);
  if (closed_) return false;
  if (connections_.size() >= limits_.connections_max && !MakeRoom()) return false;
  const int second = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (second < 0) return false;
  const uint64_t number = ++last_number_;
  epoll_event event{};
  event.events = EPOLLET;  // Hanging up is always told.
  event.data.u64 = number;
  if (::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, second, &event) != 0) {
    ::close(second);
    return false;
  }
  connections_.emplace(number,
                       Connection{.fd = second, .peer = peer, .since = clock_.MonotonicNow()});
  numbers_[peer] = number;
  strangers_.insert(number);
  return true;
}

void ConnectionGuard::Identified(std::string_view peer, const std::string& tenant) {
  MutexLock lock(&mutex_);
  const auto number = numbers_.find(peer);
  if (number == numbers_.end()) return;
  const auto found = connections_.find(number->second);
  if (found == connections_.end() || found->second.identified) return;
  found->second.identified = true;
  found->second.tenant = tenant;
  strangers_.erase(found->first);
  tenants_[tenant].insert(found->first);
}

ConnectionCall ConnectionGuard::Count(std::string_view peer) {
  MutexLock lock(&mutex_);
  const auto number = numbers_.find(peer);
  if (number == numbers_.end()) return ConnectionCall();
  return ConnectionCall(connections_.at(number->second).account);
}

void ConnectionGuard::Close(bool closed) {
  MutexLock lock(&mutex_);
  closed_ = closed;
}

// A message costs a little more on the wire than it has, and a little credit is no room to hide in:
// what is held never falls below 0.
void ConnectionGuard::Look(Connection& connection) {
  const int64_t received = BytesReceived(connection.fd);
  const int64_t consumed = connection.account->consumed;
  const int64_t taken = consumed - std::exchange(connection.consumed, consumed);
  const int64_t came = received - std::exchange(connection.received, received);
  connection.held = std::max<int64_t>(connection.held + came - taken - taken / 64, 0);
}

int64_t ConnectionGuard::Weight(const Connection& connection) const {
  const ConnectionAccount& account = *connection.account;
  const int64_t message = connection.identified ? limits_.message_bytes_max : 0;
  return std::max<int64_t>(connection.held - message, 0) +
         std::max<int64_t>(account.unread - message, 0) + kCallBytes * account.calls;
}

bool ConnectionGuard::EndHeaviest() {
  MutexLock lock(&mutex_);
  std::vector<std::pair<int64_t, uint64_t>> weights;
  for (auto& [number, connection] : connections_) {
    Look(connection);
    const int64_t weight = Weight(connection);
    if (weight >= kWeightMin) weights.emplace_back(weight, number);
  }
  if (weights.empty()) return false;
  std::ranges::sort(weights, std::greater());
  for (size_t i = 0; i < std::min(weights.size(), kEndedAtOnce); ++i) {
    // What weighs little beside the heaviest is not to blame.
    if (weights[i].first >= weights[0].first / 4) End(weights[i].second);
  }
  return true;
}

void ConnectionGuard::Sweep() {
  MutexLock lock(&mutex_);
  for (auto& [number, connection] : connections_) Look(connection);
  const Clock::Monotonic now = clock_.MonotonicNow();
  while (!strangers_.empty()) {
    const uint64_t oldest = *strangers_.begin();
    if (Seconds(now - connections_.at(oldest).since) < limits_.identify_seconds) return;
    End(oldest);
  }
}

size_t ConnectionGuard::count() const {
  MutexLock lock(&mutex_);
  return connections_.size();
}

bool ConnectionGuard::MakeRoom() {
  if (!strangers_.empty()) {
    End(*strangers_.begin());
    return true;
  }
  if (!limits_.tenants) return false;
  const auto greediest = std::ranges::max_element(
      tenants_, [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  if (greediest == tenants_.end() || 2 * greediest->second.size() <= limits_.connections_max) {
    return false;
  }
  End(*greediest->second.rbegin());
  return true;
}

// gRPC meets the end of the connection and frees what it has of it.
void ConnectionGuard::End(uint64_t number) {
  const auto found = connections_.find(number);
  // A TCP connection is reset, and what has come on it and was not read is dropped: a shutdown
  // would leave it to be read.
  const sockaddr nowhere{.sa_family = AF_UNSPEC, .sa_data = {}};
  if (::connect(found->second.fd, &nowhere, sizeof(nowhere)) != 0) {
    ::shutdown(found->second.fd, SHUT_RDWR);
  }
  Forget(found);
}

void ConnectionGuard::Forget(Connections::iterator connection) {
  const auto& [number, gone] = *connection;
  ::epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, gone.fd, nullptr);  // Its file may live on with gRPC.
  ::close(gone.fd);
  strangers_.erase(number);
  if (gone.identified) {
    const auto tenant = tenants_.find(gone.tenant);
    tenant->second.erase(number);
    if (tenant->second.empty()) tenants_.erase(tenant);
  }
  // The peer's name may mean a newer connection by now.
  const auto named = numbers_.find(gone.peer);
  if (named != numbers_.end() && named->second == number) numbers_.erase(named);
  connections_.erase(connection);
}

void ConnectionGuard::WatchUntilStopped() {
  std::array<epoll_event, 64> events{};
  Clock::Monotonic swept = clock_.MonotonicNow();
  while (true) {
    const int count =
        ::epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()), kSweepMs);
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<size_t>(i)];
      if (event.data.u64 == kStop) return;
      if ((event.events & (EPOLLHUP | EPOLLERR)) == 0) continue;
      MutexLock lock(&mutex_);
      const auto found = connections_.find(event.data.u64);
      if (found != connections_.end()) Forget(found);
    }
    if (const Clock::Monotonic now = clock_.MonotonicNow(); now - swept >= kSweepInterval) {
      swept = now;
      Sweep();
    }
  }
}

}  // namespace mnemosyne::server
