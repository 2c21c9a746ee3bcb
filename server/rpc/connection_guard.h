// Keeps the number of connections below a bound, whoever opens them. gRPC 1.51 has no such bound.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "base/clock.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// What the daemon knows of what a connection costs.
struct ConnectionAccount {
  std::atomic<int64_t> consumed = 0;  // Bytes of messages that were taken, so far.
  std::atomic<int64_t> unread = 0;    // Bytes of answers that are on their way.
  std::atomic<int64_t> calls = 0;     // Calls under way.
};

// A call under way on a connection, and its part in the account; gone with this object. Move-only.
// One thread at a time.
class ConnectionCall {
 public:
  ConnectionCall() = default;
  explicit ConnectionCall(std::shared_ptr<ConnectionAccount> account);
  ConnectionCall(ConnectionCall&& other) noexcept;
  ConnectionCall& operator=(ConnectionCall&& other) noexcept;
  ~ConnectionCall();

  // A message of `bytes` was taken.
  void Took(int64_t bytes);

  // An answer of `bytes` is on its way, in place of the one before; 0 once it has been read.
  void Answers(int64_t bytes);

 private:
  std::shared_ptr<ConnectionAccount> account_;  // Null for calls that are not counted.
  int64_t unread_ = 0;
};

struct ConnectionLimits {
  size_t connections_max = 1024;
  // After which a connection must have had a call whose caller is known.
  int32_t identify_seconds = 60;
  // One message in the middle of its way is what every client may have there.
  int64_t message_bytes_max = 4 << 20;
  // Whether callers are asked who they are: else all of them are one tenant, which is never told to
  // make room.
  bool tenants = false;
};

// Holds a second descriptor of each connection: with it, it sees when gRPC lets go of the
// connection, and can end it.
//
// Who comes when all places are taken gets that of the oldest connection whose caller is not known;
// else, where a tenant has more than half of all, that of its newest one; else nothing. So
// strangers that hold connections make room for each other, and a tenant cannot shut others out.
//
// Thread-safe. A thread of its own waits for ends.
class ConnectionGuard {
 public:
  ConnectionGuard(const ConnectionLimits& limits, const Clock& clock);
  ~ConnectionGuard();

  ConnectionGuard(const ConnectionGuard&) = delete;
  ConnectionGuard& operator=(const ConnectionGuard&) = delete;

  // Whether the connection `fd`, whose other end gRPC will call `peer`, may be served. The
  // descriptor stays the caller's; whoever serves the connection shuts it down at its end, as gRPC
  // does.
  bool Admit(int fd, const std::string& peer);

  // A caller of `tenant` made a call on the connection of `peer`.
  void Identified(std::string_view peer, const std::string& tenant);

  // A call that begins on the connection of `peer`; not counted if there is no such connection.
  ConnectionCall Count(std::string_view peer);

  // Whether there is a connection that keeps memory busy: bytes that came and are in no message
  // that was taken, answers that are not read, calls under way. The heaviest ones are ended.
  bool EndHeaviest();

  // Takes no new connections for the moment, or takes them again.
  void Close(bool closed);

  // Ends connections whose callers did not say who they are in time, and reads what has come on the
  // others. Done about once a second.
  void Sweep();

  size_t count() const;

 private:
  struct Connection {
    int fd = -1;
    std::string peer;
    Clock::Monotonic since;
    bool identified = false;
    std::string tenant = {};
    std::shared_ptr<ConnectionAccount> account = std::make_shared<ConnectionAccount>();
    int64_t received = 0;  // Bytes that had come when it was looked at last,
    int64_t consumed = 0;  // and those of messages that had been taken.
    int64_t held = 0;      // What came and was not taken.
  };
  using Connections = std::map<uint64_t, Connection>;  // By number: the first is the oldest.

  static void Look(Connection& connection);
  int64_t Weight(const Connection& connection) const;
  bool MakeRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(Connections::iterator connection) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WatchUntilStopped();

  const ConnectionLimits limits_;
  const Clock& clock_;
  const int epoll_fd_;
  const int stop_fd_;  // Readable once the thread is to stop.

  mutable Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  Connections connections_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint64_t, std::less<>> numbers_ ABSL_GUARDED_BY(mutex_);  // By peer.
  std::set<uint64_t> strangers_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::set<uint64_t>, std::less<>> tenants_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace mnemosyne::server
