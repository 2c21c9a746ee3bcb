// The bounds on the memory of all sessions together: of the host, and of devices with their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// Bytes of each kind of memory. Where the device computes in host memory, all of it is the host's.
struct MemoryAmounts {
  int64_t host = 0;
  int64_t device = 0;
  size_t ordinal = 0;  // Which device it is.

  int64_t total() const { return host + device; }
  bool operator==(const MemoryAmounts&) const = default;
};

// Hands out reservations until a bound is reached. Thread-safe; outlives its reservations.
class MemoryBudget {
 public:
  // Some bytes of the budget, given back when this object goes. Move-only.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(amounts_, other.amounts_);
      return *this;
    }
    ~Reservation();

    int64_t bytes() const { return amounts_.total(); }

   private:
    friend class MemoryBudget;
    Reservation(MemoryBudget* budget, const MemoryAmounts& amounts)
        : budget_(budget), amounts_(amounts) {}

    MemoryBudget* budget_ = nullptr;
    MemoryAmounts amounts_;
  };

  // A bound for the host, and one for each device.
  MemoryBudget(int64_t bytes_max, std::vector<int64_t> device_bytes_max);
  explicit MemoryBudget(int64_t bytes_max,
                        int64_t device_bytes_max = std::numeric_limits<int64_t>::max())
      : MemoryBudget(bytes_max, std::vector{device_bytes_max}) {}

  // ResourceExhausted with reason MEMORY_EXHAUSTED if less is left of either; the message says what
  // would fit.
  absl::StatusOr<Reservation> Reserve(const MemoryAmounts& amounts);
  absl::StatusOr<Reservation> Reserve(int64_t host_bytes) {
    return Reserve(MemoryAmounts{.host = host_bytes});
  }

  // Whether they would fit if nothing else were reserved.
  bool CanHold(const MemoryAmounts& amounts) const {
    return amounts.host <= bytes_max_ && amounts.device <= device_bytes_max_[amounts.ordinal];
  }

  // What is lacking now for `amounts` to be reserved; 0 of what suffices.
  MemoryAmounts Lacking(const MemoryAmounts& amounts) const;

  // Of the host.
  int64_t bytes_max() const { return bytes_max_; }
  int64_t bytes_reserved() const;

  // Of a device.
  int64_t device_bytes_max(size_t ordinal) const { return device_bytes_max_[ordinal]; }
  int64_t device_bytes_reserved(size_t ordinal) const;
  int64_t DeviceBytesLeft(size_t ordinal) const {
    return device_bytes_max(ordinal) - device_bytes_reserved(ordinal);
  }

 private:
  const int64_t bytes_max_;
  const std::vector<int64_t> device_bytes_max_;  // By ordinal, as is the one below.
  mutable Mutex mutex_;
  int64_t bytes_reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<int64_t> device_bytes_reserved_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::server
