// Runs events one at a time, in the order in which they come, without a thread of its own.
#pragma once

#include <deque>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// An event runs on the thread that posts it, or on one that is running an earlier event. What only
// events touch needs no lock, and an event may cause others without entering itself again.
// Thread-safe. Whoever posts keeps the strand alive until Post returns.
class Strand {
 public:
  void Post(std::function<void()> event) {
    {
      MutexLock lock(&mutex_);
      events_.push_back(std::move(event));
      if (running_) return;
      running_ = true;
    }
    while (true) {
      std::function<void()> next;
      {
        MutexLock lock(&mutex_);
        if (events_.empty()) {
          running_ = false;
          return;
        }
        next = std::move(events_.front());
        events_.pop_front();
      }
      next();
    }
  }

 private:
  Mutex mutex_;
  std::deque<std::function<void()>> events_ ABSL_GUARDED_BY(mutex_);
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mnemosyne::server
