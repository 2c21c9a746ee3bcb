// Keeps sessions: has their snapshots taken and their logged steps made durable, brings them back
// when somebody comes, and sends them away when they idle or memory is short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/session/device_set.h"
#include "server/session/keeper_ledger.h"
#include "server/session/keeper_options.h"
#include "server/session/memory_budget.h"
#include "server/session/session.h"
#include "server/session/session_mover.h"
#include "server/session/session_record.h"
#include "server/session/session_snapshots.h"
#include "server/session/worker_thread.h"
#include "server/store/state_folder.h"

namespace mnemosyne::server {

// Has three threads: one takes snapshots, one loads sessions and makes room, one makes logs
// durable. No error of the disk stops a step: it is logged, told by health() and by the session's
// progress, and tried again.
//
// Thread-safety: thread-safe. The devices, the budget and the clock outlive it, and it outlives
// the store and the sessions' use. Not to be called with a session's lock held.
class SessionKeeper {
 public:
  using TurnCallback = std::function<void(absl::StatusOr<std::unique_ptr<Turnstile::Turn>>)>;
  using Done = std::function<void(const absl::Status&)>;

  // Tells a session that expired; its folder is out of the way by then.
  using Expired = std::function<void(const std::shared_ptr<Session>&)>;

  SessionKeeper(std::unique_ptr<StateFolder> folder, KeeperOptions options, MemoryBudget& budget,
                const DeviceSet& devices, const Clock& clock);
  ~SessionKeeper();

  void OnExpired(Expired expired);

  // All sessions that are kept. Logs what cannot be read.
  std::vector<SessionRecord> ReadAll();

  // Watches over a session. Before anybody else knows it.
  void Adopt(const std::shared_ptr<Session>& session);

  // Adopts a session that was just made, and calls `done` when it would survive, or cannot.
  void KeepNew(const std::shared_ptr<Session>& session, Done done);

  // Keeps a model's file as long as the folder is kept; where it is.
  absl::Status KeepModel(std::string_view hash, std::span<const std::byte> file);
  std::optional<std::filesystem::path> FindModel(std::string_view hash) const;

  // Brings a session whose turn this is to where it can step, and gives the turn on; or the error.
  void Load(std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn,
            TurnCallback ready);

  // Sends sessions away until `amounts` can be reserved, then calls `done`; ok if they can. See
  // SessionMover::FreeRoom.
  void MakeRoom(const MemoryAmounts& amounts, Done done);

  // Takes a snapshot now, pins it if `pin` is not empty, and calls `done` with its step.
  // FailedPrecondition with reason NOT_AT_STEP if `step` is not 0 and the session stands elsewhere.
  void Snapshot(const std::shared_ptr<Session>& session, std::string pin, int64_t step,
                std::function<void(absl::StatusOr<int64_t>)> done);

  // Calls `done` when the rules that the session was just given would survive, or cannot. A
  // snapshot does it: steps that are sent again after a crash must be those that the rules were
  // made for.
  void KeepRules(const std::shared_ptr<Session>& session, Done done);

  // Goes back to a pinned snapshot in `turn`: durably first, then in memory.
  void Rewind(std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn,
              std::string pin, Done done);

  // Keeps a state that was put in the place of the session's own in `turn`, which ends meanwhile.
  // If that fails, the session has no snapshot until one succeeds: the state that was replaced must
  // not come back.
  void KeepReplaced(std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn,
                    Done done);

  // Removes all that is kept of a session.
  void Forget(const Session& session);

  // Takes snapshots of all sessions that have new steps, until `deadline`; returns how many are
  // left without. Steps must have ended.
  size_t SnapshotAll(Clock::Monotonic deadline);

  KeeperHealth health() const { return ledger_.health(); }
  const KeeperOptions& options() const { return options_; }

 private:
  SessionFolder FolderOf(const Session& session) const { return folder_->Session(session.id()); }
  void Commit(Session& session);
  absl::Status StartKeeping(Session& session);
  absl::Status ReplaceKept(const std::shared_ptr<Session>& session,
                           std::unique_ptr<Turnstile::Turn> turn);
  absl::Status RewindNow(const std::shared_ptr<Session>& session, const std::string& pin);
  void LookAfterAll();
  void LookAfter(const std::shared_ptr<Session>& session);
  bool SnapshotIsDue(const Session& session, const KeeperLedger::Entry& known) const;
  void Expire(const std::shared_ptr<Session>& session);
  bool draining() const;

  const std::unique_ptr<StateFolder> folder_;
  const KeeperOptions options_;
  const Clock& clock_;

  KeeperLedger ledger_;
  SessionSnapshots snapshots_;
  Clock::Monotonic disk_counted_;  // When it was counted last; used in LookAfterAll.
  SessionMover mover_;

  mutable Mutex mutex_;
  Expired expired_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;

  WorkerThread syncer_;
  WorkerThread loader_;
  WorkerThread writer_;
};

}  // namespace mnemosyne::server
