// Moves the states of sessions among the device, the host's memory and the disk.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "server/session/device_set.h"
#include "server/session/keeper_ledger.h"
#include "server/session/keeper_options.h"
#include "server/session/memory_budget.h"
#include "server/session/session.h"
#include "server/session/session_snapshots.h"
#include "server/store/state_folder.h"

namespace mnemosyne::server {

// What is on the disk stays the truth of a crash: a state may be parked before it has a snapshot,
// as it may be on the device, but it leaves memory only when it has one.
//
// Thread-safe; calls block. All that it is made with outlives it. Not to be called on the
// executor's thread, nor with a session's lock held.
class SessionMover {
 public:
  SessionMover(StateFolder& folder, const KeeperOptions& options, MemoryBudget& budget,
               KeeperLedger& ledger, SessionSnapshots& snapshots, const DeviceSet& devices,
               const Clock& clock);

  // Brings a session to where it can step, in its turn: from host memory or from the disk, to the
  // device with the most room; from a device that failed, too. Other sessions make room.
  // Unavailable with reason DEVICE_FAULT if no device works; ResourceExhausted with reason
  // MEMORY_EXHAUSTED if there is none; DataLoss with reason STATE_LOST if no snapshot is whole.
  absl::Status Load(const std::shared_ptr<Session>& session);

  // Gives up the state of a resident session on a device that failed, in its turn: its holder is
  // evicted, and its last snapshot is what is left of it.
  absl::Status LeaveFaulted(const std::shared_ptr<Session>& session);

  // Sends a resident session from the device's own memory to the host's; to the disk where the host
  // has no room either. Nothing to do for others. BUSY if it is in the middle of a step.
  absl::Status SendToHost(const std::shared_ptr<Session>& session);

  // Sends a session to the disk, after a snapshot if it needs one. BUSY if it is in the middle of a
  // step; errors as SessionSnapshots::Take.
  absl::Status SendToDisk(const std::shared_ptr<Session>& session);

  // Reserves memory: others move down, those first that idled longest, until there is room.
  // Sessions in the middle of a step are waited for. `for_whom`, which may be null, stays.
  absl::StatusOr<MemoryBudget::Reservation> FreeRoom(const MemoryAmounts& amounts,
                                                     const Session* for_whom);

  // Opens the log of a session whose steps are logged. In its turn, or before anybody else knows
  // it. Errors as StepLog::Open.
  absl::Status OpenLog(Session& session);

 private:
  using Sessions = std::vector<std::shared_ptr<Session>>;

  SessionFolder FolderOf(const Session& session) const { return folder_.Session(session.id()); }
  // Takes a session that is not resident to the device where it is to be.
  absl::Status Settle(Session& session);
  absl::Status Park(const std::shared_ptr<Session>& session);
  absl::Status LoadFromHost(const std::shared_ptr<Session>& session,
                            MemoryBudget::Reservation reservation);
  absl::Status LoadFromDisk(const std::shared_ptr<Session>& session,
                            MemoryBudget::Reservation reservation);
  // Tries `load` again as long as the device has no room, whatever the budget says, and another
  // session can leave it.
  absl::Status WithDeviceRoom(const Session& session, const std::function<absl::Status()>& load);
  // Moves sessions down, one by one, until there is room; whether one was busy that would help.
  bool MoveOthersDown(const MemoryAmounts& amounts, const Session* for_whom);
  // Those in `tier`, the longest idle first, without `for_whom`.
  Sessions IdleFirst(Session::Tier tier, const Session* for_whom) const;

  StateFolder& folder_;
  const KeeperOptions& options_;
  MemoryBudget& budget_;
  KeeperLedger& ledger_;
  SessionSnapshots& snapshots_;
  const DeviceSet& devices_;
  const Clock& clock_;
};

}  // namespace mnemosyne::server
