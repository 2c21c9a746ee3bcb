// Keeps the memory of the whole process below a bound, whatever clients send. gRPC 1.51 counts only
// part of what a connection costs it.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/rpc/connection_guard.h"

namespace mnemosyne::server {

// How much memory the process has, in bytes.
struct ProcessMemory {
  int64_t resident = 0;  // Of the machine's memory.
  int64_t in_use = 0;    // The same, without what the allocator keeps for later.
};

// The memory of this process; 0 where it cannot be told. Takes some microseconds; `in_use` is
// filled in only on demand, which takes longer.
ProcessMemory ReadProcessMemory(bool in_use);

// Looks many times a second. While there is too much memory, connections that keep most of it busy
// are ended, and no new ones are taken for a second after the last of them, or as long as there is
// still too much, ten seconds at most. Honest clients open theirs again. Where no connection is to
// blame, the log says so, and all go on.
class MemoryGuard {
 public:
  // `bytes_max` says how much there may be now. Both functions are called on a thread of this
  // object, and with `connections` and `clock` outlive it.
  MemoryGuard(std::function<int64_t()> bytes_max, std::function<ProcessMemory(bool)> read,
              ConnectionGuard& connections, const Clock& clock);
  ~MemoryGuard();

  MemoryGuard(const MemoryGuard&) = delete;
  MemoryGuard& operator=(const MemoryGuard&) = delete;

  // Looks once. Not at the same time as the thread does.
  void Look();

 private:
  void LookUntilStopped();
  void Open();

  const std::function<int64_t()> bytes_max_;
  const std::function<ProcessMemory(bool)> read_;
  ConnectionGuard& connections_;
  const Clock& clock_;
  Clock::Monotonic ended_;    // When it last ended some.
  Clock::Monotonic logged_;   // When it last said that there is too much.
  Clock::Monotonic trimmed_;  // When memory was last given back.
  bool closed_ = false;       // To new connections.
  Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace mnemosyne::server
