// Something that happens once, and that a test waits for.
#pragma once

#include "base/mutex.h"

namespace mnemosyne::testing {

// Thread-safe. May be destroyed as soon as the wait is over.
class Notification {
 public:
  void Notify() {
    MutexLock lock(&mutex_);
    happened_ = true;
  }

  void WaitForNotification() {
    MutexLock lock(&mutex_);
    lock.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return happened_; });
  }

 private:
  Mutex mutex_;
  bool happened_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mnemosyne::testing
