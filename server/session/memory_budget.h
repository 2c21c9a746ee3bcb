// The bounds on the memory of all sessions together: of the host, and of a device with its own.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// Bytes of each kind of memory. Where the device computes in host memory, all of it is the host's.
struct MemoryAmounts {
  int64_t host = 0;
  int64_t device = 0;

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

  explicit MemoryBudget(int64_t bytes_max,
                        int64_t device_bytes_max = std::numeric_limits<int64_t>::max())
      : max_{bytes_max, device_bytes_max} {}

  // ResourceExhausted with reason MEMORY_EXHAUSTED if less is left of either; the message says what
  // would fit.
  absl::StatusOr<Reservation> Reserve(const MemoryAmounts& amounts);
  absl::StatusOr<Reservation> Reserve(int64_t host_bytes) {
    return Reserve(MemoryAmounts{.host = host_bytes});
  }

  // Whether they would fit if nothing else were reserved.
  bool CanHold(const MemoryAmounts& amounts) const {
    return amounts.host <= max_.host && amounts.device <= max_.device;
  }

  // What is lacking now for `amounts` to be reserved; 0 of what suffices.
  MemoryAmounts Lacking(const MemoryAmounts& amounts) const;

  const MemoryAmounts& max() const { return max_; }
  MemoryAmounts reserved() const;

  // Of the host.
  int64_t bytes_max() const { return max_.host; }
  int64_t bytes_reserved() const { return reserved().host; }

 private:
  const MemoryAmounts max_;
  mutable Mutex mutex_;
  MemoryAmounts reserved_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::server
