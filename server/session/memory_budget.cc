#include "server/session/memory_budget.h"

#include <string>

#include "base/error.h"

namespace mnemosyne::server {
namespace {

// Sessions come and go by the minute.
constexpr char kRetryAfterMs[] = "30000";

}  // namespace

MemoryBudget::Reservation::~Reservation() {
  if (budget_ == nullptr) return;
  MutexLock lock(&budget_->mutex_);
  budget_->reserved_ -= bytes_;
}

absl::StatusOr<MemoryBudget::Reservation> MemoryBudget::Reserve(int64_t bytes) {
  MutexLock lock(&mutex_);
  const int64_t left = bytes_max_ - reserved_;
  if (bytes > left) {
    absl::Status status = WithMetadata(
        WithReason(ResourceExhausted("no room: {} bytes are needed, {} of {} bytes are left; use a "
                                     "smaller model, delete sessions, or raise --memory-max",
                                     bytes, left, bytes_max_),
                   "MEMORY_EXHAUSTED"),
        "available_bytes", std::to_string(left));
    if (bytes > bytes_max_) return status;
    return WithMetadata(std::move(status), "retry_after_ms", kRetryAfterMs);
  }
  reserved_ += bytes;
  return Reservation(this, bytes);
}

int64_t MemoryBudget::bytes_reserved() const {
  MutexLock lock(&mutex_);
  return reserved_;
}

}  // namespace mnemosyne::server
