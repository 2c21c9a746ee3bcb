#include "server/model/model_reloader.h"

#include <utility>

#include "base/error.h"

namespace mnemosyne::server {
namespace {

constexpr size_t kWaitingMax = 64;

}  // namespace

ModelReloader::ModelReloader(ModelRegistry& models)
    : models_(models), thread_([this] { Work(); }) {}

ModelReloader::~ModelReloader() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  thread_.join();
}

absl::Status ModelReloader::Submit(Callback done) {
  MutexLock lock(&mutex_);
  if (waiting_.size() >= kWaitingMax) {
    return WithReason(
        ResourceExhausted("{} callers already wait for a reload; try again a little later",
                          waiting_.size()),
        "QUEUE_FULL");
  }
  waiting_.push_back(std::move(done));
  return absl::OkStatus();
}

void ModelReloader::Work() {
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopped_ || !waiting_.empty();
  };
  while (true) {
    std::vector<Callback> callbacks;
    {
      MutexLock lock(&mutex_);
      lock.Await(ready);
      if (waiting_.empty()) return;  // Stopped, and all are answered.
      callbacks.swap(waiting_);
    }
    const ModelReload reload = models_.Reload();
    for (const Callback& done : callbacks) done(reload);
  }
}

}  // namespace mnemosyne::server
