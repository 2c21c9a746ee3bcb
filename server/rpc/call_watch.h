// Ends calls whose client has stopped, or may go on no more: what a call holds must come back.
#pragma once

#include <grpcpp/server_context.h>

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mutex.h"
#include "server/rpc/stream_registry.h"
#include "server/security/caller.h"

namespace mnemosyne::server {

// Cancels a call that makes no progress for `patience_seconds`, or whose caller's credentials were
// taken away. Thread-safe.
class CallWatch final : public Watched {
 public:
  CallWatch(grpc::CallbackServerContext* context, Caller caller, int32_t patience_seconds,
            const Clock& clock)
      : clock_(clock),
        caller_(std::move(caller)),
        patience_seconds_(patience_seconds),
        context_(context),
        last_progress_(clock.MonotonicNow()) {}

  // The client has taken or sent something. Unauthenticated if it may not go on.
  absl::Status Progress() {
    if (!caller_.IsValid(clock_.Now())) {
      return WithReason(MakeError(absl::StatusCode::kUnauthenticated,
                                  "what this call was begun with has been revoked"),
                        "WRONG_CREDENTIALS");
    }
    MutexLock lock(&mutex_);
    last_progress_ = clock_.MonotonicNow();
    return absl::OkStatus();
  }

  // The call is over: its context is not touched again.
  void Close() {
    MutexLock lock(&mutex_);
    context_ = nullptr;
  }

  void OnTick() override {
    MutexLock lock(&mutex_);
    if (context_ == nullptr) return;
    const bool stalled = Seconds(clock_.MonotonicNow() - last_progress_) >= patience_seconds_;
    if (stalled || !caller_.IsValid(clock_.Now())) context_->TryCancel();
  }

  void OnDrain() override {}  // Shutdown's deadline bounds what is left.

 private:
  const Clock& clock_;
  const Caller caller_;
  const int32_t patience_seconds_;
  Mutex mutex_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(mutex_);
  Clock::Monotonic last_progress_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::server
