// How much one tenant may have at a time.
#pragma once

#include <cstdint>

namespace mnemosyne::server {

// 0 is no bound but that of the daemon.
struct TenantLimits {
  int64_t sessions = 0;
  int64_t memory_bytes = 0;    // Of all its sessions together, as --memory-max counts.
  int64_t device_bytes = 0;    // The part of it that lies on the device; on the CPU states alone.
  int64_t disk_bytes = 0;      // Of all its sessions' files together.
  int64_t parameters = 0;      // Tensors of all its sessions together.
  int64_t streams = 0;         // Streams, exports and imports.
  int64_t inflight_bytes = 0;  // Of unary steps that are not answered yet.
  int64_t steps_per_second = 0;
  int64_t creations_per_minute = 0;
};

}  // namespace mnemosyne::server
