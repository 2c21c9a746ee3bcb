#include "server/session/memory_budget.h"

#include <string>

#include "base/error.h"

namespace mnemosyne::server {

MemoryBudget::Reservation::~Reservation() {
  if (budget_ == nullptr) return;
  MutexLock lock(&budget_->mutex_);
  budget_->reserved_ -= bytes_;
}

absl::StatusOr<MemoryBudget::Reservation> MemoryBudget::Reserve(int64_t bytes) {
  MutexLock lock(&mutex_);
  const int64_t left = bytes_max_ - reserved_;
  if (bytes > left) {
    return WithMetadata(
        WithReason(ResourceExhausted("no room: {} bytes are needed, {} of {} bytes are left; use a "
                                     "smaller model, delete sessions, or raise --memory-max",
                                     bytes, left, bytes_max_),
                   "MEMORY_EXHAUSTED"),
        "available_bytes", std::to_string(left));
  }
  reserved_ += bytes;
  return Reservation(this, bytes);
}

int64_t MemoryBudget::bytes_reserved() const {
  MutexLock lock(&mutex_);
  return reserved_;
}

}  // namespace mnemosyne::server
