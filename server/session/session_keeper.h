// Keeps sessions on the disk: takes their snapshots, makes their logged steps durable, loads them
// when somebody comes, and sends them back when memory is short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/session/disk_quota.h"
#include "server/session/memory_budget.h"
#include "server/session/session.h"
#include "server/session/session_record.h"
#include "server/session/snapshot_taker.h"
#include "server/session/step_executor.h"
#include "server/store/state_folder.h"

namespace mnemosyne::server {

// When snapshots are taken, and the bounds on them.
struct KeeperOptions {
  int64_t snapshot_seconds = 60;   // A session with new steps gets one after this long; 0: not.
  int64_t snapshot_steps = 0;      // And after this many steps; 0: not.
  size_t generations = 2;          // Kept of each session; at least 1.
  int64_t buffer_bytes = 1 << 30;  // Memory that a snapshot may copy a state into.
  int64_t disk_bytes_max = 0;      // Of all sessions' files; 0 is no bound.
  // Of all files of a tenant's sessions; 0 is no bound. May be null.
  DiskQuota::LimitFunction tenant_disk_bytes_max = nullptr;
  int64_t log_bytes_max = 4LL << 30;  // A session's log beyond this asks for a snapshot.
  int64_t idle_seconds = 0;           // An idle session leaves memory after this long; 0: not.
  int64_t expire_seconds = 0;         // And the daemon; 0: never.
};

// How it goes, for people and probes.
struct KeeperHealth {
  std::string error;  // What went wrong last, empty once it went well again.
  int64_t snapshot_count = 0;
  int64_t failure_count = 0;
  int64_t load_count = 0;
  int64_t eviction_count = 0;
  double last_snapshot_seconds = 0;
  double last_held_seconds = 0;
};

// Has three threads: one takes snapshots, one loads sessions and makes room, one makes logs
// durable. No error of the disk stops a step: it is logged, told by health() and by the session's
// progress, and tried again.
//
// Thread-safety: thread-safe. The executor, the budget and the clock outlive it, and it outlives
// the store and the sessions' use. Not to be called with a session's lock held.
class SessionKeeper {
 public:
  using TurnCallback = std::function<void(absl::StatusOr<std::unique_ptr<Turnstile::Turn>>)>;
  using Done = std::function<void(const absl::Status&)>;

  // Tells a session that expired; its folder is out of the way by then.
  using Expired = std::function<void(const std::shared_ptr<Session>&)>;

  SessionKeeper(std::unique_ptr<StateFolder> folder, KeeperOptions options, MemoryBudget& budget,
                StepExecutor& executor, const Clock& clock);
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

  // Loads a session whose turn this is, and gives the turn on; or the error.
  void Load(std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn,
            TurnCallback ready);

  // Sends sessions to the disk until `bytes` can be reserved, those first that idled longest, then
  // calls `done`; ok if they can. Sessions in the middle of a step are waited for.
  void MakeRoom(int64_t bytes, Done done);

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

  KeeperHealth health() const;
  const KeeperOptions& options() const { return options_; }

 private:
  static constexpr int64_t kNoStep = -1;

  // What is known of a session's snapshots.
  struct Kept {
    std::weak_ptr<Session> session;
    int64_t step = 0;        // Of the newest snapshot; kNoStep if none is of this state.
    int64_t log_bytes = 0;   // Of the log behind it.
    bool new_rules = false;  // The session's rules are not those of the snapshot.
    Clock::Monotonic tried;  // When a snapshot was tried last.
  };
  using Task = std::function<void()>;

  // A thread with a queue; finishes it before it stops.
  class Worker {
   public:
    // `idle` runs whenever the queue is empty, and then after every `period`; it may be empty.
    Worker(const char* name, Task idle, std::chrono::milliseconds period);
    ~Worker() { Stop(); }
    void Submit(Task task);
    void WakeUp();  // Runs `idle` soon.
    void Stop();

   private:
    void Work();

    const Task idle_;
    const std::chrono::milliseconds period_;
    Mutex mutex_;
    std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
    bool awake_ ABSL_GUARDED_BY(mutex_) = false;
    bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
    std::thread thread_;
  };

  SessionFolder FolderOf(const Session& session) const { return folder_->Session(session.id()); }

  // What a snapshot needs: its session's turn, and that of all who write snapshots.
  struct Turns {
    std::unique_ptr<Turnstile::Turn> session;
    std::unique_ptr<Turnstile::Turn> writing;
  };

  // A turn, waited for at most `patience`; null if it does not come.
  static std::unique_ptr<Turnstile::Turn> AwaitTurn(Turnstile& turnstile,
                                                    std::chrono::milliseconds patience);

  // The turn to write, waited for as long as it takes.
  std::unique_ptr<Turnstile::Turn> AwaitWriting();

  // Both turns. The session's is waited for `patience` at most, and without the other one in hand:
  // who has the session's may be waiting to write. Unavailable (BUSY) if it does not come.
  absl::StatusOr<Turns> AwaitBoth(Session& session, std::chrono::milliseconds patience);

  absl::Status SnapshotNow(const std::shared_ptr<Session>& session, const std::string& pin,
                           std::chrono::milliseconds patience, int64_t step = 0);
  absl::Status SnapshotInTurn(const std::shared_ptr<Session>& session,
                              std::unique_ptr<Turnstile::Turn> turn, CaptureBuffer& buffer);
  absl::Status Evict(const std::shared_ptr<Session>& session);
  absl::Status TakeDisk(const Session& session);
  // Counts what is on the disk, where it is bounded.
  void CountDisk();
  absl::Status LoadNow(const std::shared_ptr<Session>& session);
  absl::Status OpenLog(Session& session);
  absl::StatusOr<MemoryBudget::Reservation> FreeRoom(int64_t bytes, const Session* for_whom);
  void Note(const absl::Status& status, const Session& session, std::string_view words);
  void LookAfterAll();
  std::vector<std::shared_ptr<Session>> Alive();
  int64_t SnapshotStep(const Session& session) const;
  // Whether the newest snapshot is not of the session as it is.
  bool IsBehind(const Session& session) const;

  // What is known of a session, unless it is forgotten already.
  template <typename Change>
  void Remember(const Session& session, Change change) {
    MutexLock lock(&mutex_);
    const auto found = kept_.find(session.id());
    if (found != kept_.end()) change(found->second);
  }

  const std::unique_ptr<StateFolder> folder_;
  const KeeperOptions options_;
  MemoryBudget& budget_;
  StepExecutor& executor_;
  const Clock& clock_;

  DiskQuota disk_quota_;
  Clock::Monotonic disk_counted_;  // When it was counted last for all; used in LookAfterAll.
  const std::shared_ptr<Turnstile> writing_;  // Of those who write snapshots: one at a time.

  mutable Mutex mutex_;
  std::map<std::string, Kept, std::less<>> kept_ ABSL_GUARDED_BY(mutex_);  // By id.
  KeeperHealth health_ ABSL_GUARDED_BY(mutex_);
  Expired expired_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;

  Worker syncer_;
  Worker loader_;
  Worker writer_;
};

}  // namespace mnemosyne::server
