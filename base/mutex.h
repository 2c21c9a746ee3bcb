// A mutex that waits for conditions, with annotations that clang checks.
//
// It stands on std::mutex, which ThreadSanitizer understands. Debian's abseil is not built for that
// tool: under its mutexes every correct program looks like a race.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"

namespace mnemosyne {

// Thread-safe. Used through MutexLock alone.
class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

 private:
  friend class MutexLock;

  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;  // Guarded by mutex_.
};

// Holds a mutex as long as it lives. Whoever waits for a condition looks again whenever another
// holder lets go.
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex)
      : mutex_(*mutex), lock_(mutex->mutex_) {}

  ~MutexLock() ABSL_UNLOCK_FUNCTION() {
    // While the lock is still held: who is woken may destroy the mutex.
    if (mutex_.waiting_ > 0) mutex_.changed_.notify_all();
  }

  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  // Lets the mutex go until `condition`, which is called with it held, is true.
  template <typename Condition>
  void Await(Condition condition) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    ++mutex_.waiting_;
    mutex_.changed_.wait(lock_, condition);
    --mutex_.waiting_;
  }

  // As Await, for `patience` at most; returns whether the condition is true.
  template <typename Condition>
  bool AwaitFor(std::chrono::nanoseconds patience,
                Condition condition) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    ++mutex_.waiting_;
    const bool met = mutex_.changed_.wait_for(lock_, patience, condition);
    --mutex_.waiting_;
    return met;
  }

 private:
  Mutex& mutex_;
  std::unique_lock<std::mutex> lock_;
};

}  // namespace mnemosyne
