// What a daemon that is about to end tells those who come meanwhile.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "base/error.h"

namespace mnemosyne::server {

// Unavailable with reason SHUTTING_DOWN, and in `retry_after_ms` how long a restart takes at least;
// `cure` says what to do then.
inline absl::Status ShuttingDown(std::string_view cure) {
  return WithMetadata(
      WithReason(Unavailable("the daemon is shutting down; {}", cure), "SHUTTING_DOWN"),
      "retry_after_ms", "1000");
}

}  // namespace mnemosyne::server
