// All streams and long calls under way: their number, their clock, and their end.
#pragma once

#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// Something that lasts, and must be told the time and the end of the daemon.
class Watched {
 public:
  virtual ~Watched() = default;
  virtual void OnTick() = 0;   // About once a second.
  virtual void OnDrain() = 0;  // The daemon is shutting down.
};

// Ticks every stream about once a second, from a thread of its own. Thread-safe.
class StreamRegistry {
 public:
  explicit StreamRegistry(size_t stream_count_max);
  ~StreamRegistry();

  // Takes a stream in. ResourceExhausted with reason TOO_MANY_STREAMS beyond the bound, Unavailable
  // after Drain.
  absl::Status Add(const std::shared_ptr<Watched>& stream);

  // Lets every stream finish the step in hand and end; takes no more in.
  void Drain();

  size_t count() const;

 private:
  std::vector<std::shared_ptr<Watched>> Alive();
  void TickUntilStopped();

  const size_t stream_count_max_;
  mutable Mutex mutex_;
  std::vector<std::weak_ptr<Watched>> streams_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread ticker_;
};

}  // namespace mnemosyne::server
