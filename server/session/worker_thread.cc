#include "server/session/worker_thread.h"

#include <pthread.h>

#include <utility>

#include "base/fail_point.h"

namespace mnemosyne::server {

WorkerThread::WorkerThread(const char* name, Task idle, std::chrono::milliseconds period)
    : idle_(std::move(idle)), period_(period), thread_([this] { Work(); }) {
  pthread_setname_np(thread_.native_handle(), name);
}

void WorkerThread::Submit(Task task) {
  FAIL_POINT("keeper.submit");
  MutexLock lock(&mutex_);
  queue_.push_back(std::move(task));
}

void WorkerThread::WakeUp() {
  MutexLock lock(&mutex_);
  awake_ = true;
}

void WorkerThread::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void WorkerThread::Work() {
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopped_ || awake_ || !queue_.empty();
  };
  while (true) {
    Task task;
    {
      MutexLock lock(&mutex_);
      lock.AwaitFor(period_, ready);
      awake_ = false;
      if (!queue_.empty()) {
        task = std::move(queue_.front());
        queue_.pop_front();
      } else if (stopped_) {
        return;
      }
    }
    if (task) {
      FAIL_POINT("keeper.take");
      task();
    } else if (idle_) {
      idle_();
    }
  }
}

}  // namespace mnemosyne::server
