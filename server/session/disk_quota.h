// How many bytes of the state folder are taken, by each tenant and by all.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// Adds what is written to what was counted last. Files that go are noticed when all are counted
// again.
//
// Thread-safe.
class DiskQuota {
 public:
  // Bytes that a tenant may have; 0 is no bound. Asked at each question, so that it may change.
  using LimitFunction = std::function<int64_t(std::string_view tenant)>;
  using BytesByTenant = std::map<std::string, int64_t, std::less<>>;

  // `bytes_max` is the bound of all together, 0 is none. `limit_of` may be null: no tenant has a
  // bound.
  DiskQuota(LimitFunction limit_of, int64_t bytes_max)
      : limit_of_(std::move(limit_of)), bytes_max_(bytes_max) {}

  // Whether anything is bounded for the tenant.
  bool Bounds(std::string_view tenant) const { return bytes_max_ != 0 || LimitOf(tenant) != 0; }

  // What tenants have, and what all of the folder has, counted just now. Those without a bound may
  // be left out.
  void Counted(BytesByTenant held, int64_t all);

  // Takes `bytes` for a file that is about to grow, if at least `spare` are left then. Else
  // ResourceExhausted with reason TENANT_LIMIT, or DISK_FULL for the bound of all; the message and
  // the metadata `limit` and `available` say what would fit.
  absl::Status Take(std::string_view tenant, int64_t bytes, int64_t spare = 0);

 private:
  int64_t LimitOf(std::string_view tenant) const {
    return limit_of_ == nullptr ? 0 : limit_of_(tenant);
  }

  const LimitFunction limit_of_;
  const int64_t bytes_max_;
  Mutex mutex_;
  BytesByTenant held_ ABSL_GUARDED_BY(mutex_);
  int64_t all_held_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mnemosyne::server
