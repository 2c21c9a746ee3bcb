// The file that says who may come in, and as what. One line for each way in:
//
//   # comment
//   token tenant=vision id=0123456789abcdef salt=... sha256=... expires=2027-01-31
//   certificate tenant=speech name=trainer.speech.example
//   user tenant=ops role=admin uid=1000
//   limit tenant=vision sessions=10 memory=8GiB disk=50GiB streams=20 steps-per-second=500
//
// `mnemosynectl token` makes a token and its line. A certificate's name is one of its subject
// alternative names; its common name counts if it has none. A uid is that of a process on the
// daemon's Unix-domain socket. `expires` is the first day, in UTC, on which a token is refused.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "server/security/tenant_limits.h"

namespace mnemosyne::server {

// What a way in leads to.
struct AccessRole {
  std::string tenant;
  bool admin = false;

  bool operator==(const AccessRole&) const = default;
};

struct AccessTokenEntry {
  AccessRole role;
  std::string salt;
  std::string sha256;
  Clock::Time expires = Clock::Time::max();

  bool operator==(const AccessTokenEntry&) const = default;
};

struct AccessTable {
  std::map<std::string, AccessTokenEntry, std::less<>> tokens;  // By id.
  std::map<std::string, AccessRole, std::less<>> certificates;  // By name.
  std::map<uint32_t, AccessRole> users;                         // By uid.
  std::map<std::string, TenantLimits, std::less<>> limits;      // By tenant.
};

// Reads the text of a file. A tenant's `limit` line starts from `defaults`. InvalidArgument names
// the line and what is wrong with it, but none of its values, which may be secrets in a wrong
// place.
absl::StatusOr<AccessTable> ParseAccessFile(std::string_view text, const TenantLimits& defaults);

}  // namespace mnemosyne::server
