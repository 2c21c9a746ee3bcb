// What is known of the sessions that are kept: their snapshots, where they are, and how it goes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/session/session.h"

namespace mnemosyne::server {

// How it goes, for people and probes. Counts are since the start.
struct KeeperHealth {
  std::string error;  // What went wrong last, empty once it went well again.
  int64_t snapshot_count = 0;
  int64_t failure_count = 0;
  int64_t load_count = 0;      // From the disk to where they step.
  int64_t eviction_count = 0;  // To the disk.
  int64_t unpark_count = 0;    // From host memory to the device.
  int64_t park_count = 0;      // From the device to host memory.
  double last_snapshot_seconds = 0;
  double last_held_seconds = 0;
  // Sessions that are there now, by where their states are.
  int64_t resident_count = 0;
  int64_t parked_count = 0;
  int64_t on_disk_count = 0;
};

// Thread-safe. Holds no session: one that its store forgot is gone.
class KeeperLedger {
 public:
  static constexpr int64_t kNoStep = -1;

  // What is known of a session's snapshots.
  struct Entry {
    std::weak_ptr<Session> session;
    int64_t step = 0;        // Of the newest snapshot; kNoStep if none is of this state.
    int64_t log_bytes = 0;   // Of the log behind it.
    bool new_rules = false;  // The session's rules are not those of the snapshot.
    Clock::Monotonic tried;  // When a snapshot was tried last.
  };

  // Knows the session from now on; its newest snapshot is of the step that it stands at.
  void Add(const std::shared_ptr<Session>& session, Clock::Monotonic now);
  void Remove(const Session& session);

  // A copy of what is known; nothing of a session that was removed.
  std::optional<Entry> Find(const Session& session) const;

  // Changes what is known of a session, unless it was removed.
  void Change(const Session& session, const std::function<void(Entry&)>& change);

  // All sessions that are there.
  std::vector<std::shared_ptr<Session>> Alive() const;

  // The step of the newest snapshot.
  int64_t SnapshotStep(const Session& session) const;

  // Whether the newest snapshot is not of the session as it is.
  bool IsBehind(const Session& session) const;

  // Logs what went wrong with a session, and tells its clients and the daemon's health.
  void NoteFailure(const absl::Status& status, Session& session, std::string_view words);

  // Changes the counts of health().
  void Count(const std::function<void(KeeperHealth&)>& change);
  KeeperHealth health() const;

 private:
  mutable Mutex mutex_;
  std::map<std::string, Entry, std::less<>> entries_ ABSL_GUARDED_BY(mutex_);  // By id.
  KeeperHealth health_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::server
