// Who makes a call.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "base/clock.h"

namespace mnemosyne::server {

// A caller that has been identified. What it makes belongs to its tenant, and it sees nothing of
// other tenants; an admin sees the sessions of all, may delete them, and may have files read again.
//
// Where the daemon asks for no credentials, every caller is the admin of one tenant without a name.
struct Caller {
  std::string tenant;
  bool admin = true;
  std::string means = "open";  // How it was identified, for the audit log; holds no secret.

  // Becomes true when what the caller was identified by is taken away. Null if it cannot be.
  std::shared_ptr<const std::atomic<bool>> revoked = nullptr;
  Clock::Time expires = Clock::Time::max();

  // Whether what a caller began may go on.
  bool IsValid(Clock::Time now) const {
    return (revoked == nullptr || !revoked->load(std::memory_order_relaxed)) && now < expires;
  }

  // Whether a thing of `owner` exists for this caller.
  bool Sees(const std::string& owner) const { return admin || tenant == owner; }
};

}  // namespace mnemosyne::server
