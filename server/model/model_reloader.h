// Reloads models for callers that must not wait, such as gRPC's threads.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "server/model/model_registry.h"

namespace mnemosyne::server {

// A thread that reloads when it is asked. Requests that come while it is at work are answered
// together by one more reload, which began after all of them.
//
// Thread-safety: thread-safe. Destroying it answers who waits.
class ModelReloader {
 public:
  using Callback = std::function<void(const ModelReload&)>;

  // `models` outlives it.
  explicit ModelReloader(ModelRegistry& models);
  ~ModelReloader();

  // Calls `done` on the reloader's thread after a reload. ResourceExhausted with reason QUEUE_FULL
  // if too many wait already.
  absl::Status Submit(Callback done);

 private:
  void Work();

  ModelRegistry& models_;
  Mutex mutex_;
  std::vector<Callback> waiting_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace mnemosyne::server
