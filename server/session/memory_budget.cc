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

MemoryBudget::MemoryBudget(int64_t bytes_max, std::vector<int64_t> device_bytes_max)
    : bytes_max_(bytes_max),
      device_bytes_max_(std::move(device_bytes_max)),
      device_bytes_reserved_(device_bytes_max_.size(), 0) {}

MemoryBudget::Reservation::~Reservation() {
  if (budget_ == nullptr) return;
  MutexLock lock(&budget_->mutex_);
  budget_->bytes_reserved_ -= amounts_.host;
  budget_->device_bytes_reserved_[amounts_.ordinal] -= amounts_.device;
}

absl::StatusOr<MemoryBudget::Reservation> MemoryBudget::Reserve(const MemoryAmounts& amounts) {
  MutexLock lock(&mutex_);
  int64_t& on_device = device_bytes_reserved_[amounts.ordinal];
  absl::Status room = CheckRoom(amounts.host, bytes_reserved_, bytes_max_, "", "--memory-max");
  if (room.ok()) {
    room = CheckRoom(amounts.device, on_device, device_bytes_max_[amounts.ordinal],
                     " on the device", "--device-memory-max");
  }
  if (!room.ok()) return room;
  bytes_reserved_ += amounts.host;
  on_device += amounts.device;
  return Reservation(this, amounts);
}

MemoryAmounts MemoryBudget::Lacking(const MemoryAmounts& amounts) const {
  const auto lacking = [](int64_t bytes, int64_t left) {
    return std::max<int64_t>(bytes - left, 0);
  };
  return {.host = lacking(amounts.host, bytes_max_ - bytes_reserved()),
          .device = lacking(amounts.device, DeviceBytesLeft(amounts.ordinal)),
          .ordinal = amounts.ordinal};
}

int64_t MemoryBudget::bytes_reserved() const {
  MutexLock lock(&mutex_);
  return bytes_reserved_;
}

int64_t MemoryBudget::device_bytes_reserved(size_t ordinal) const {
  MutexLock lock(&mutex_);
  return device_bytes_reserved_[ordinal];
}

}  // namespace mnemosyne::server
