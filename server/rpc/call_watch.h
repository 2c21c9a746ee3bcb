// Ends calls whose client has stopped: what a stalled call holds must come back.
#pragma once

#include <grpcpp/server_context.h>

#include "absl/base/thread_annotations.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/rpc/stream_registry.h"

namespace mnemosyne::server {

// Cancels a call that makes no progress for `patience_seconds`. Thread-safe.
class CallWatch final : public Watched {
 public:
  CallWatch(grpc::CallbackServerContext* context, int32_t patience_seconds, const Clock& clock)
      : clock_(clock),
        patience_seconds_(patience_seconds),
        context_(context),
        last_progress_(clock.MonotonicNow()) {}

  // The client has taken or sent something.
  void Progress() {
    MutexLock lock(&mutex_);
    last_progress_ = clock_.MonotonicNow();
  }

  // The call is over: its context is not touched again.
  void Close() {
    MutexLock lock(&mutex_);
    context_ = nullptr;
  }

  void OnTick() override {
    MutexLock lock(&mutex_);
    if (context_ == nullptr) return;
    if (Seconds(clock_.MonotonicNow() - last_progress_) >= patience_seconds_) {
      context_->TryCancel();
    }
  }

  void OnDrain() override {}  // Shutdown's deadline bounds what is left.

 private:
  const Clock& clock_;
  const int32_t patience_seconds_;
  Mutex mutex_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(mutex_);
  Clock::Monotonic last_progress_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::server
