// One training job's optimizer state: its parameters, its rules, its holder, and its last step.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "kernels/backend.h"
#include "optim/optimizer.h"
#include "optim/optimizer_factory.h"
#include "proto/codec/chunk_grid.h"
#include "server/security/tenant_quotas.h"
#include "server/session/memory_budget.h"
#include "server/session/session_spec.h"
#include "server/session/session_state.h"
#include "server/session/turnstile.h"

namespace mnemosyne::server {

class StepExecutor;

// A session has at most one holder, a stream or a unary caller, named by an epoch that grows with
// each change of hands: the newer wins. It has one turn, and whoever has that may touch the state.
//
// Its state is in one of three tiers: resident, where it can step; parked in host memory, if the
// device has a memory of its own; or on the disk, from which a SessionKeeper loads it.
//
// Thread-safety: thread-safe, but for state(), which belongs to the holder of the turn.
// Ownership: shared by the store, its stream and the executor; deleting it from the store closes
// it, and the last of them frees it.
class Session {
 public:
  // Where its state is.
  enum class Tier { kResident, kParked, kDisk };

  // What others may know of it.
  struct Progress {
    int64_t epoch = 0;
    int64_t last_step = 0;
    std::optional<Clock::Time> last_step_time;
    bool held = false;
    std::optional<optim::GuardReport> guard;  // Of the last step.
    int64_t non_finite_count = 0;             // Elements of gradients, over all steps.
    int64_t skipped_count = 0;                // Parameters left out for them, over all steps.
    int64_t last_durable_step = 0;            // Survives a crash of the daemon.
    std::string durability_error;             // Why no later one does; empty while all is well.
  };

  // Told to a holder that loses the session, and why. Called without locks of the session.
  using Eviction = std::function<void(const absl::Status&)>;

  // Makes the step that was just taken durable, then calls what it is given, on any thread.
  using Commit = std::function<void(std::function<void()>)>;

  // What a keeper of sessions wants to know; each may be empty. Called without locks.
  struct Hooks {
    Commit commit;                       // Of a session whose steps are logged.
    std::function<void(int64_t)> taken;  // A new holder has this epoch.
    std::function<void()> stepped;       // A step was applied.
  };

  // Which opening of which stream a holder is; stream 0 for one that is no stream, or is opened
  // once.
  struct Opening {
    uint64_t stream = 0;
    int64_t attempt = 0;
  };

  // The device that it steps on: its worker, which outlives the session, and the optimizer there,
  // which is shared with other sessions.
  struct Place {
    StepExecutor* executor = nullptr;
    std::shared_ptr<optim::Optimizer> optimizer;
  };

  // What a session is made of.
  struct Parts {
    std::string name;
    std::string token;
    std::string tenant;
    Place place;
    SessionSpec spec;  // Checked; its parameters have moved into `layout`.
    optim::OptimizerFactoryPtr factory;
    std::shared_ptr<const StepRules> rules;
    optim::ParameterLayout layout;
    size_t cell_elements;
    int64_t state_bytes;
    int64_t device_bytes = 0;  // The part of the memory that counts as the device's for a tenant.
    MemoryAmounts resident_memory = {};     // All that it needs while it is resident,
    MemoryAmounts parked_memory = {};       // and while it is parked.
    MemoryBudget::Reservation reservation;  // Of resident_memory; none if it begins on the disk.
    TenantQuotas::Share share;
    std::string request_id = {};  // That made it, and the fingerprint of its spec.
    uint64_t spec_fingerprint = 0;
    std::optional<Clock::Time> create_time = {};  // Now, if not set.
    int64_t epoch = 0;
    int64_t last_step = 0;
  };

  Session(Parts parts, const Clock& clock);

  // Allocates the state. Runs on the executor's thread, before anyone else knows the session.
  absl::Status Allocate(kernels::Backend& backend);

  // Where its state is; changes only in a turn.
  Tier tier() const { return tier_.load(std::memory_order_acquire); }
  bool resident() const { return tier() == Tier::kResident; }
  bool in_memory() const { return tier() != Tier::kDisk; }

  // Whether it has more than one place in memory to be in: the device's own and the host's.
  bool can_park() const { return resident_memory_.device > 0; }

  // Moves the state from the device into host memory, and back. On the executor's thread, in a
  // turn. On an error of the first nothing has changed; on one of the second the state is parked
  // as before: ResourceExhausted if the device has no room, Internal if it failed.
  absl::Status Park(kernels::Backend& backend);
  absl::Status Unpark(kernels::Backend& backend);

  // Frees the memory of the state, and, with Unload, gives its reservation back. On the executor's
  // thread, in a turn.
  void DropState();
  void Unload();

  // Takes it to another device; in a turn, while it is not resident.
  void MoveTo(Place place);

  // Takes the memory for the tier that it is in, or is about to move to.
  void SetReservation(MemoryBudget::Reservation reservation);

  // Set once, before anybody else knows the session.
  void SetHooks(Hooks hooks) { hooks_ = std::move(hooks); }
  const Hooks& hooks() const { return hooks_; }

  const std::string& name() const { return name_; }

  // Whose it is; for all others it does not exist.
  const std::string& tenant() const { return tenant_; }

  // The name without `sessions/`.
  std::string_view id() const;

  // The device where it steps, or stepped last. It changes in a turn only.
  Place place() const;
  StepExecutor& executor() const { return *place().executor; }
  std::string device() const;
  const optim::OptimizerInfo& optimizer() const { return factory_->info(); }
  const optim::OptimizerFactoryPtr& factory() const { return factory_; }

  // The optimizer itself, for the executor's thread alone.
  optim::Optimizer& rule() const { return *place().optimizer; }

  const optim::ParameterLayout& layout() const { return layout_; }
  const codec::ChunkGrid& grid() const { return grid_; }
  int64_t state_bytes() const { return state_bytes_; }
  int64_t memory_bytes() const { return resident_memory_.total(); }
  MemoryAmounts resident_memory() const;  // On the device where it is.
  const MemoryAmounts& parked_memory() const { return parked_memory_; }
  int64_t reserved_bytes() const;
  const std::string& request_id() const { return request_id_; }
  uint64_t spec_fingerprint() const { return spec_fingerprint_; }
  Clock::Time create_time() const { return create_time_; }
  const Clock& clock() const { return clock_; }

  // The session's secret, for its creator alone.
  const std::string& token() const { return token_; }

  // Whether `token` is the session's, compared in constant time.
  bool TokenMatches(std::string_view token) const;

  // The spec with the changes made since, without parameters; layout() has those.
  SessionSpec spec() const;

  std::shared_ptr<const StepRules> rules() const;

  // Replaces the rules and the spec that they came from, from the next step on.
  void SetRules(SessionSpec spec, std::shared_ptr<const StepRules> rules);

  // Makes the caller the holder, and returns its epoch. The holder before is evicted with Aborted,
  // reason SUPERSEDED. NotFound if the session was deleted, Internal if it is quarantined, Aborted
  // with reason STALE_OPENING if a later opening of the same stream came before.
  absl::StatusOr<int64_t> Take(Eviction eviction, const Opening& opening);
  absl::StatusOr<int64_t> Take(Eviction eviction) { return Take(std::move(eviction), Opening()); }

  // Lets go, if `epoch` still holds.
  void Release(int64_t epoch);

  // Ok if `epoch` holds; else Aborted, reason SUPERSEDED. NotFound and Internal as Take.
  absl::Status CheckHolder(int64_t epoch) const;

  // Ok unless the session was deleted (NotFound) or is quarantined (Internal).
  absl::Status CheckUsable() const;

  // Evicts the holder with NotFound; nobody can take the session any more.
  void Close();

  // The holder loses the session for a cause that is not its own, and may come back.
  void Evict(const absl::Status& cause);

  // Keeps everyone off after a failed internal check; the holder is evicted.
  void Quarantine(const absl::Status& cause);

  Progress progress() const;

  // Tells the others how far the state is. Called in the turn, after an import or a step.
  void ReportStep(int64_t last_step);
  void ReportStep(const StepOutcome& outcome);

  // All steps up to this one survive a crash; `error` says why later ones do not, if that is so.
  void ReportDurable(int64_t last_durable_step, std::string error = {});
  void ReportDurabilityError(std::string error);

  // Somebody has use for it now; when that was the last time.
  void Touch() { touched_.store(clock_.MonotonicNow(), std::memory_order_relaxed); }
  Clock::Monotonic touched() const { return touched_.load(std::memory_order_relaxed); }

  Turnstile& turnstile() { return *turnstile_; }

  SessionState& state() { return state_; }
  const SessionState& state() const { return state_; }

 private:
  // What the state needs beside its numbers: the optimizer's tensors, and the gradients' arenas.
  struct Arenas {
    std::unique_ptr<optim::OptimizerState> optimizer;
    kernels::Buffer staging, values;
  };
  absl::StatusOr<Arenas> MakeArenas(kernels::Backend& backend);

  const std::string name_;
  const std::string token_;
  const std::string tenant_;
  const optim::OptimizerFactoryPtr factory_;
  const optim::ParameterLayout layout_;
  const codec::ChunkGrid grid_;
  const int64_t state_bytes_;
  const TenantQuotas::Share share_;
  const MemoryAmounts resident_memory_;
  const MemoryAmounts parked_memory_;
  const std::string request_id_;
  const uint64_t spec_fingerprint_;

  const Clock& clock_;
  const Clock::Time create_time_;
  const std::shared_ptr<Turnstile> turnstile_;

  Hooks hooks_;
  std::atomic<Tier> tier_ = Tier::kDisk;
  std::atomic<Clock::Monotonic> touched_;

  mutable Mutex mutex_;
  Place place_ ABSL_GUARDED_BY(mutex_);  // Outlives the state below.

  SessionState state_;  // Touched only in the turn.

  MemoryBudget::Reservation reservation_ ABSL_GUARDED_BY(mutex_);
  SessionSpec spec_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const StepRules> rules_ ABSL_GUARDED_BY(mutex_);
  Progress progress_ ABSL_GUARDED_BY(mutex_);
  Eviction eviction_ ABSL_GUARDED_BY(mutex_);
  Opening opening_ ABSL_GUARDED_BY(mutex_);      // The last one that took it.
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);  // Not ok once nobody may take it.
};

}  // namespace mnemosyne::server
