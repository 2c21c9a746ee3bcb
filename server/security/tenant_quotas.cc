#include "server/security/tenant_quotas.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace mnemosyne::server {
namespace {

// One thing that is counted, and its bound.
struct Counted {
  int64_t TenantQuotas::Amounts::*amount;
  int64_t TenantLimits::*limit;
  std::string_view name;
};

constexpr Counted kCounted[] = {
    {&TenantQuotas::Amounts::sessions, &TenantLimits::sessions, "sessions"},
    {&TenantQuotas::Amounts::memory_bytes, &TenantLimits::memory_bytes, "bytes of memory"},
    {&TenantQuotas::Amounts::parameters, &TenantLimits::parameters, "parameters"},
    {&TenantQuotas::Amounts::streams, &TenantLimits::streams, "streams"},
    {&TenantQuotas::Amounts::inflight_bytes, &TenantLimits::inflight_bytes,
     "bytes of steps in flight"},
};

absl::Status OverLimit(const Counted& counted, int64_t asked, int64_t limit, int64_t available) {
  absl::Status status =
      WithReason(ResourceExhausted("{} more {} would exceed this tenant's {}; {} would fit now",
                                   asked, counted.name, limit, available),
                 "TENANT_LIMIT");
  status = WithMetadata(std::move(status), "limit", std::to_string(limit));
  return WithMetadata(std::move(status), "available", std::to_string(available));
}

}  // namespace

TenantQuotas::Share::~Share() {
  if (quotas_ != nullptr) quotas_->GiveBack(tenant_, amounts_);
}

absl::StatusOr<TenantQuotas::Share> TenantQuotas::Take(const std::string& tenant,
                                                       const Amounts& amounts) {
  const TenantLimits limits = limits_of_(tenant);
  MutexLock lock(&mutex_);
  Account& account = accounts_[tenant];
  for (const Counted& counted : kCounted) {
    const int64_t limit = limits.*counted.limit;
    const int64_t asked = amounts.*counted.amount;
    if (limit == 0 || asked == 0) continue;
    const int64_t available = std::max<int64_t>(limit - account.held.*counted.amount, 0);
    if (asked > available) return OverLimit(counted, asked, limit, available);
  }
  for (const Counted& counted : kCounted) {
    account.held.*counted.amount += amounts.*counted.amount;
  }
  return Share(this, tenant, amounts);
}

void TenantQuotas::GiveBack(const std::string& tenant, const Amounts& amounts) {
  MutexLock lock(&mutex_);
  Account& account = accounts_[tenant];
  for (const Counted& counted : kCounted) {
    account.held.*counted.amount -= amounts.*counted.amount;
  }
}

absl::Status TenantQuotas::Count(const std::string& tenant, Rate Account::*rate, int64_t events,
                                 double seconds, std::string_view what) {
  if (events == 0) return absl::OkStatus();
  const auto each = std::chrono::duration_cast<Clock::Monotonic::duration>(
      std::chrono::duration<double>(seconds / static_cast<double>(events)));
  const auto burst = std::max<Clock::Monotonic::duration>(std::chrono::seconds(1), each);
  MutexLock lock(&mutex_);
  const Clock::Monotonic now = clock_.MonotonicNow();
  Rate& owed = accounts_[tenant].*rate;
  const Clock::Monotonic start = std::max(owed.free_at, now);
  if (const auto wait = start + each - (now + burst); wait.count() > 0) {
    const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
    return WithMetadata(
        WithReason(ResourceExhausted("this tenant may have {} {}; try again in {} ms", events, what,
                                     milliseconds),
                   "RATE_LIMITED"),
        "retry_after_ms", std::to_string(milliseconds));
  }
  owed.free_at = start + each;
  return absl::OkStatus();
}

absl::Status TenantQuotas::CountStep(const std::string& tenant) {
  return Count(tenant, &Account::steps, limits_of_(tenant).steps_per_second, 1, "steps per second");
}

absl::Status TenantQuotas::CountCreation(const std::string& tenant) {
  return Count(tenant, &Account::creations, limits_of_(tenant).creations_per_minute, 60,
               "creations of sessions per minute");
}

TenantQuotas::Amounts TenantQuotas::Held(std::string_view tenant) const {
  MutexLock lock(&mutex_);
  const auto found = accounts_.find(tenant);
  return found == accounts_.end() ? Amounts() : found->second.held;
}

}  // namespace mnemosyne::server
