// When sessions are kept and moved, and the bounds on that.
#pragma once

#include <cstddef>
#include <cstdint>

#include "server/session/disk_quota.h"

namespace mnemosyne::server {

struct KeeperOptions {
  int64_t snapshot_seconds = 60;   // A session with new steps gets one after this long; 0: not.
  int64_t snapshot_steps = 0;      // And after this many steps; 0: not.
  size_t generations = 2;          // Kept of each session; at least 1.
  int64_t buffer_bytes = 1 << 30;  // Memory that a snapshot may copy a state into.
  int64_t disk_bytes_max = 0;      // Of all sessions' files; 0 is no bound.
  // Of all files of a tenant's sessions; 0 is no bound. May be null.
  DiskQuota::LimitFunction tenant_disk_bytes_max = nullptr;
  int64_t log_bytes_max = 4LL << 30;  // A session's log beyond this asks for a snapshot.
  int64_t park_seconds = 0;           // An idle session leaves the device's own memory; 0: not.
  int64_t idle_seconds = 0;           // It leaves all memory after this long; 0: not.
  int64_t expire_seconds = 0;         // And the daemon; 0: never.
};

}  // namespace mnemosyne::server
