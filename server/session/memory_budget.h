// The bound on the memory of all sessions together.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// Hands out reservations until its bound is reached. Thread-safe; outlives its reservations.
class MemoryBudget {
 public:
  // Some bytes of the budget, given back when this object goes. Move-only.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Reservation();

    int64_t bytes() const { return bytes_; }

   private:
    friend class MemoryBudget;
    Reservation(MemoryBudget* budget, int64_t bytes) : budget_(budget), bytes_(bytes) {}

    MemoryBudget* budget_ = nullptr;
    int64_t bytes_ = 0;
  };

  explicit MemoryBudget(int64_t bytes_max) : bytes_max_(bytes_max) {}

  // ResourceExhausted with reason MEMORY_EXHAUSTED if less is left; the message says what would
  // fit.
  absl::StatusOr<Reservation> Reserve(int64_t bytes);

  int64_t bytes_max() const { return bytes_max_; }
  int64_t bytes_reserved() const;

 private:
  const int64_t bytes_max_;
  mutable Mutex mutex_;
  int64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mnemosyne::server
