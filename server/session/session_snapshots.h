// Takes the snapshots of sessions, one at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "server/session/disk_quota.h"
#include "server/session/keeper_ledger.h"
#include "server/session/keeper_options.h"
#include "server/session/session.h"
#include "server/session/snapshot_taker.h"
#include "server/session/step_executor.h"
#include "server/session/turnstile.h"
#include "server/store/state_folder.h"

namespace mnemosyne::server {

// That a session's turn did not come in time: Unavailable with reason BUSY.
absl::Status BusySession();

// Thread-safe; calls block. All that it is made with outlives it. Not to be called on the
// executor's thread, nor with a session's lock held.
class SessionSnapshots {
 public:
  static constexpr std::chrono::milliseconds kPatience{10'000};  // For a session's turn.
  static constexpr std::chrono::milliseconds kNoPatience{0};

  SessionSnapshots(StateFolder& folder, const KeeperOptions& options, KeeperLedger& ledger,
                   const Clock& clock);

  // Takes a snapshot unless the newest one is of the session as it is, and pins it if `pin` is not
  // empty. Waits for the session's turn for `patience`, and then gives up with BUSY.
  // FailedPrecondition with reason NOT_AT_STEP if `step` is not 0 and the snapshot is of another.
  absl::Status Take(const std::shared_ptr<Session>& session, const std::string& pin,
                    std::chrono::milliseconds patience, int64_t step = 0);

  // Takes a snapshot in the session's `turn`, with that of all who write in hand.
  absl::Status TakeInTurn(const std::shared_ptr<Session>& session,
                          std::unique_ptr<Turnstile::Turn> turn, CaptureBuffer& buffer);

  // What the sessions have on the disk, as far as it is bounded: whoever writes takes from it.
  DiskQuota& disk() { return disk_; }

  // Counts what is on the disk, unless a snapshot is being written: half of one would count for
  // half.
  void CountDisk();

  // The turn to write, waited for as long as it takes.
  std::unique_ptr<Turnstile::Turn> AwaitWriting();

 private:
  // What a snapshot needs: its session's turn, and that of all who write snapshots.
  struct Turns {
    std::unique_ptr<Turnstile::Turn> session;
    std::unique_ptr<Turnstile::Turn> writing;
  };

  // Both turns. The session's is waited for `patience` at most, and without the other one in hand:
  // who has the session's may be waiting to write. Unavailable (BUSY) if it does not come.
  absl::StatusOr<Turns> AwaitBoth(Session& session, std::chrono::milliseconds patience);

  SessionFolder FolderOf(const Session& session) const { return folder_.Session(session.id()); }
  void CountDiskInTurn();
  absl::Status TakeDisk(const Session& session);

  StateFolder& folder_;
  const KeeperOptions& options_;
  KeeperLedger& ledger_;
  const Clock& clock_;
  DiskQuota disk_;
  const std::shared_ptr<Turnstile> writing_;  // Of those who write snapshots: one at a time.
};

}  // namespace mnemosyne::server
