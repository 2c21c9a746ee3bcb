// Whose a call is that lasts: a stream, an export, an import.
#pragma once

#include <functional>
#include <string_view>

#include "absl/status/status.h"
#include "server/security/caller.h"
#include "server/security/tenant_quotas.h"

namespace mnemosyne::server {

// Who makes the call, what it takes of its tenant's quota, and whom to tell what it does.
struct StreamOwner {
  Caller caller;
  TenantQuotas::Share share = {};
  // Told of an action on a session and its outcome. May be null.
  std::function<void(std::string_view action, std::string_view session, const absl::Status&)>
      record = nullptr;
};

}  // namespace mnemosyne::server
