// What each tenant has at a time, and whether it may have more.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/security/tenant_limits.h"

namespace mnemosyne::server {

// Counts by tenant. The bounds of a tenant are asked for at each question, so that they may change.
//
// Thread-safe; outlives its shares.
class TenantQuotas {
 public:
  // Amounts of what is counted.
  struct Amounts {
    int64_t sessions = 0;
    int64_t memory_bytes = 0;
    int64_t device_bytes = 0;
    int64_t parameters = 0;
    int64_t streams = 0;
    int64_t inflight_bytes = 0;
  };

  // Amounts that a tenant has, given back when this object goes. Move-only.
  class Share {
   public:
    Share() = default;
    Share(Share&& other) noexcept { *this = std::move(other); }
    Share& operator=(Share&& other) noexcept {
      std::swap(quotas_, other.quotas_);
      std::swap(tenant_, other.tenant_);
      std::swap(amounts_, other.amounts_);
      return *this;
    }
    ~Share();

   private:
    friend class TenantQuotas;
    Share(TenantQuotas* quotas, std::string tenant, const Amounts& amounts)
        : quotas_(quotas), tenant_(std::move(tenant)), amounts_(amounts) {}

    TenantQuotas* quotas_ = nullptr;
    std::string tenant_;
    Amounts amounts_;
  };

  using LimitsFunction = std::function<TenantLimits(std::string_view)>;

  TenantQuotas(LimitsFunction limits_of, const Clock& clock)
      : limits_of_(std::move(limits_of)), clock_(clock) {}

  // ResourceExhausted with reason TENANT_LIMIT if the tenant would have more of something than it
  // may; the message and the metadata `limit` and `available` say of what, and what would fit, and
  // `retry_after_ms` when, where it comes back by itself soon.
  absl::StatusOr<Share> Take(const std::string& tenant, const Amounts& amounts);

  // Whether the tenant may have as much once it has nothing else.
  bool MayEverHave(std::string_view tenant, const Amounts& amounts) const;

  // What all tenants together may have; only rates count. Set before the first question.
  void set_everyone(const TenantLimits& limits) { everyone_ = limits; }

  // Counts a step, or the creation of a session, against the tenant's rate and that of all.
  // ResourceExhausted with reason RATE_LIMITED if it comes too early; `retry_after_ms` says when it
  // would be taken.
  absl::Status CountStep(const std::string& tenant);
  absl::Status CountCreation(const std::string& tenant);

  TenantLimits LimitsOf(std::string_view tenant) const { return limits_of_(tenant); }

  // What the tenant has now.
  Amounts Held(std::string_view tenant) const;

 private:
  // A rate: time is owed for each event, and a second's worth of events may come at once.
  struct Rate {
    Clock::Monotonic free_at;  // When nothing is owed any more.
  };
  struct Account {
    Amounts held;
    Rate steps;
    Rate creations;
  };

  // `whose` rates are counted, in the words of the message.
  absl::Status Count(Account& account, std::string_view whose, Rate Account::*rate, int64_t events,
                     double seconds, std::string_view what) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CountForBoth(const std::string& tenant, Rate Account::*rate,
                            int64_t TenantLimits::*limit, double seconds, std::string_view what);
  void GiveBack(const std::string& tenant, const Amounts& amounts);

  const LimitsFunction limits_of_;
  const Clock& clock_;
  TenantLimits everyone_;
  mutable Mutex mutex_;
  Account all_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Account, std::less<>> accounts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::server
