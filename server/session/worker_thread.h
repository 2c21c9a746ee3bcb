// A thread with a queue of tasks.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// Runs tasks in the order in which they come, and finishes its queue before it stops. Thread-safe,
// but for Stop, which one thread calls.
class WorkerThread {
 public:
  using Task = std::function<void()>;

  // `name` has at most 15 characters. `idle` runs whenever the queue is empty, and then after every
  // `period`; it may be empty.
  WorkerThread(const char* name, Task idle, std::chrono::milliseconds period);
  ~WorkerThread() { Stop(); }
  WorkerThread(const WorkerThread&) = delete;
  WorkerThread& operator=(const WorkerThread&) = delete;

  void Submit(Task task);

  // Runs `idle` soon.
  void WakeUp();

  // Ends what is queued, and then the thread.
  void Stop();

 private:
  void Work();

  const Task idle_;
  const std::chrono::milliseconds period_;
  Mutex mutex_;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  bool awake_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace mnemosyne::server
