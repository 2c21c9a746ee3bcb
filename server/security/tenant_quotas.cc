#include "server/security/tenant_quotas.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::server {
namespace {

// One thing that is counted, and its bound.
struct Counted {
  int64_t TenantQuotas::Amounts::*amount;
  int64_t TenantLimits::*limit;
  std::string_view name;
  std::string_view cure;                 // What makes room.
  const char* retry_after_ms = nullptr;  // Where it comes back by itself soon.
};

constexpr Counted kCounted[] = {
    {&TenantQuotas::Amounts::sessions, &TenantLimits::sessions, "sessions",
     "delete one that is done with"},
    {&TenantQuotas::Amounts::memory_bytes, &TenantLimits::memory_bytes, "bytes of memory",
     "delete sessions"},
    {&TenantQuotas::Amounts::device_bytes, &TenantLimits::device_bytes,
     "bytes of the device's memory", "delete sessions"},
    {&TenantQuotas::Amounts::parameters, &TenantLimits::parameters, "parameters",
     "delete sessions"},
    {&TenantQuotas::Amounts::streams, &TenantLimits::streams, "streams", "close some", "1000"},
    {&TenantQuotas::Amounts::inflight_bytes, &TenantLimits::inflight_bytes,
     "bytes of steps in flight", "wait for the answers to others", "100"},
};

absl::Status OverLimit(const Counted& counted, int64_t asked, int64_t limit, int64_t available) {
  const bool fits_later = asked <= limit;
  absl::Status status = WithReason(
      ResourceExhausted("{} more {} would exceed this tenant's {}; {} would fit now: {}, or ask "
                        "the operator for more",
                        asked, counted.name, limit, available,
                        fits_later ? counted.cure : std::string_view("use less")),
      "TENANT_LIMIT");
  status = WithMetadata(std::move(status), "limit", std::to_string(limit));
  status = WithMetadata(std::move(status), "available", std::to_string(available));
  if (counted.retry_after_ms == nullptr || !fits_later) return status;
  return WithMetadata(std::move(status), "retry_after_ms", counted.retry_after_ms);
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

bool TenantQuotas::MayEverHave(std::string_view tenant, const Amounts& amounts) const {
  const TenantLimits limits = limits_of_(tenant);
  return std::ranges::all_of(kCounted, [&](const Counted& counted) {
    const int64_t limit = limits.*counted.limit;
    return limit == 0 || amounts.*counted.amount <= limit;
  });
}

void TenantQuotas::GiveBack(const std::string& tenant, const Amounts& amounts) {
  MutexLock lock(&mutex_);
  Account& account = accounts_[tenant];
  for (const Counted& counted : kCounted) {
    account.held.*counted.amount -= amounts.*counted.amount;
  }
}

absl::Status TenantQuotas::Count(Account& account, std::string_view whose, Rate Account::*rate,
                                 int64_t events, double seconds, std::string_view what) {
  if (events == 0) return absl::OkStatus();
  const auto each = std::chrono::duration_cast<Clock::Monotonic::duration>(
      std::chrono::duration<double>(seconds / static_cast<double>(events)));
  const auto burst = std::max<Clock::Monotonic::duration>(std::chrono::seconds(1), each);
  const Clock::Monotonic now = clock_.MonotonicNow();
  Rate& owed = account.*rate;
  const Clock::Monotonic start = std::max(owed.free_at, now);
  if (const auto wait = start + each - (now + burst); wait.count() > 0) {
    const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
    return WithMetadata(WithReason(ResourceExhausted("{} may have {} {}; try again in {} ms", whose,
                                                     events, what, milliseconds),
                                   "RATE_LIMITED"),
                        "retry_after_ms", std::to_string(milliseconds));
  }
  owed.free_at = start + each;
  return absl::OkStatus();
}

// The tenant's own rate goes first: what it may not have it does not take from the others.
absl::Status TenantQuotas::CountForBoth(const std::string& tenant, Rate Account::*rate,
                                        int64_t TenantLimits::*limit, double seconds,
                                        std::string_view what) {
  const int64_t events = limits_of_(tenant).*limit;
  MutexLock lock(&mutex_);
  MNEMO_RETURN_IF_ERROR(Count(accounts_[tenant], "this tenant", rate, events, seconds, what));
  return Count(all_, "all tenants together", rate, everyone_.*limit, seconds, what);
}

absl::Status TenantQuotas::CountStep(const std::string& tenant) {
  return CountForBoth(tenant, &Account::steps, &TenantLimits::steps_per_second, 1,
                      "steps per second");
}

absl::Status TenantQuotas::CountCreation(const std::string& tenant) {
  return CountForBoth(tenant, &Account::creations, &TenantLimits::creations_per_minute, 60,
                      "creations of sessions per minute");
}

TenantQuotas::Amounts TenantQuotas::Held(std::string_view tenant) const {
  MutexLock lock(&mutex_);
  const auto found = accounts_.find(tenant);
  return found == accounts_.end() ? Amounts() : found->second.held;
}

}  // namespace mnemosyne::server
