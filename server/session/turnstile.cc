#include "server/session/turnstile.h"

#include <utility>

#include "base/error.h"
#include "base/fail_point.h"

namespace mnemosyne::server {

absl::Status Turnstile::Ask(Callback ready) {
  {
    MutexLock lock(&mutex_);
    if (taken_) {
      if (line_.size() >= kLineMax) {
        return WithReason(
            ResourceExhausted("{} calls already wait for their turn on this session", kLineMax),
            "QUEUE_FULL");
      }
      line_.push_back(std::move(ready));
      return absl::OkStatus();
    }
    taken_ = true;
  }
  ready(std::make_unique<Turn>(shared_from_this()));
  return absl::OkStatus();
}

std::unique_ptr<Turnstile::Turn> Turnstile::Try() {
  MutexLock lock(&mutex_);
  if (taken_) return nullptr;
  taken_ = true;
  return std::make_unique<Turn>(shared_from_this());
}

void Turnstile::Next() {
  Callback ready;
  {
    MutexLock lock(&mutex_);
    if (line_.empty()) {
      taken_ = false;
      return;
    }
    ready = std::move(line_.front());
    line_.pop_front();
  }
  FAIL_POINT("turn.next");
  ready(std::make_unique<Turn>(shared_from_this()));
}

}  // namespace mnemosyne::server
