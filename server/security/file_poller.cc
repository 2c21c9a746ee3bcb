#include "server/security/file_poller.h"

#include <utility>

namespace mnemosyne::server {

FilePoller::FilePoller(std::chrono::milliseconds interval, std::function<void()> look)
    : interval_(interval), look_(std::move(look)), thread_([this] { LookUntilStopped(); }) {}

FilePoller::~FilePoller() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  thread_.join();
}

void FilePoller::LookNow() {
  MutexLock lock(&mutex_);
  asked_ = true;
}

void FilePoller::LookUntilStopped() {
  while (true) {
    {
      MutexLock lock(&mutex_);
      lock.AwaitFor(interval_,
                    [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return asked_ || stopped_; });
      if (stopped_) return;
      asked_ = false;
    }
    look_();
  }
}

}  // namespace mnemosyne::server
