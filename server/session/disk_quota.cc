#include "server/session/disk_quota.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace mnemosyne::server {
namespace {

int64_t Available(int64_t limit, int64_t held, int64_t spare) {
  if (limit == 0) return std::numeric_limits<int64_t>::max();
  return std::max<int64_t>(limit - held - spare, 0);
}

absl::Status WithAmounts(absl::Status status, int64_t limit, int64_t available) {
  status = WithMetadata(std::move(status), "limit", std::to_string(limit));
  return WithMetadata(std::move(status), "available", std::to_string(available));
}

}  // namespace

void DiskQuota::Counted(BytesByTenant held, int64_t all) {
  MutexLock lock(&mutex_);
  held_ = std::move(held);
  all_held_ = all;
}

absl::Status DiskQuota::Take(std::string_view tenant, int64_t bytes, int64_t spare) {
  const int64_t limit = LimitOf(tenant);
  int64_t available = 0;
  int64_t all_available = 0;
  {
    MutexLock lock(&mutex_);
    int64_t& held = held_.try_emplace(std::string(tenant), 0).first->second;
    available = Available(limit, held, spare);
    all_available = Available(bytes_max_, all_held_, spare);
    if (bytes <= available && bytes <= all_available) {
      held += bytes;
      all_held_ += bytes;
      return absl::OkStatus();
    }
  }
  if (bytes > available) {
    return WithAmounts(
        WithReason(ResourceExhausted("{} more bytes on the disk would exceed this tenant's {}; {} "
                                     "would fit now: delete sessions, or ask the operator for more",
                                     bytes, limit, available),
                   "TENANT_LIMIT"),
        limit, available);
  }
  return WithAmounts(
      WithReason(ResourceExhausted("{} more bytes on the disk would exceed the {} of --state-max; "
                                   "{} would fit now: delete sessions, or raise it",
                                   bytes, bytes_max_, all_available),
                 "DISK_FULL"),
      bytes_max_, all_available);
}

}  // namespace mnemosyne::server
