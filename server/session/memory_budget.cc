#include "server/session/memory_budget.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "base/error.h"

namespace mnemosyne::server {
namespace {

// Sessions come and go by the minute.
constexpr char kRetryAfterMs[] = "30000";

absl::Status CheckRoom(int64_t bytes, int64_t reserved, int64_t bytes_max, std::string_view where,
                       std::string_view option) {
  const int64_t left = bytes_max - reserved;
  if (bytes <= left) return absl::OkStatus();
  absl::Status status = WithMetadata(
      WithReason(ResourceExhausted("no room{}: {} bytes are needed, {} of {} bytes are left; use a "
                                   "smaller model, delete sessions, or raise {}",
                                   where, bytes, left, bytes_max, option),
                 "MEMORY_EXHAUSTED"),
      "available_bytes", std::to_string(left));
  if (bytes > bytes_max) return status;
  return WithMetadata(std::move(status), "retry_after_ms", kRetryAfterMs);
}

}  // namespace

MemoryBudget::Reservation::~Reservation() {
  if (budget_ == nullptr) return;
  MutexLock lock(&budget_->mutex_);
  budget_->reserved_.host -= amounts_.host;
  budget_->reserved_.device -= amounts_.device;
}

absl::StatusOr<MemoryBudget::Reservation> MemoryBudget::Reserve(const MemoryAmounts& amounts) {
  MutexLock lock(&mutex_);
  absl::Status room = CheckRoom(amounts.host, reserved_.host, max_.host, "", "--memory-max");
  if (room.ok()) {
    room = CheckRoom(amounts.device, reserved_.device, max_.device, " on the device",
                     "--device-memory-max");
  }
  if (!room.ok()) return room;
  reserved_.host += amounts.host;
  reserved_.device += amounts.device;
  return Reservation(this, amounts);
}

MemoryAmounts MemoryBudget::Lacking(const MemoryAmounts& amounts) const {
  MutexLock lock(&mutex_);
  const auto lacking = [](int64_t bytes, int64_t reserved, int64_t bytes_max) {
    return std::max<int64_t>(bytes - (bytes_max - reserved), 0);
  };
  return {.host = lacking(amounts.host, reserved_.host, max_.host),
          .device = lacking(amounts.device, reserved_.device, max_.device)};
}

MemoryAmounts MemoryBudget::reserved() const {
  MutexLock lock(&mutex_);
  return reserved_;
}

}  // namespace mnemosyne::server
