// Looks at files again and again, so that a change needs no restart and no signal.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// A thread that calls `look` every `interval`, and at once when it is told to. Destroying it waits
// for the call under way. Thread-safe.
class FilePoller {
 public:
  FilePoller(std::chrono::milliseconds interval, std::function<void()> look);
  ~FilePoller();

  FilePoller(const FilePoller&) = delete;
  FilePoller& operator=(const FilePoller&) = delete;

  // Does not wait for the look.
  void LookNow();

 private:
  void LookUntilStopped();

  const std::chrono::milliseconds interval_;
  const std::function<void()> look_;
  Mutex mutex_;
  bool asked_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace mnemosyne::server
