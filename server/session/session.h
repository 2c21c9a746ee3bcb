// One training job's optimizer state: its parameters, its rules, its holder, and its last step.
#pragma once

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
#include "proto/codec/chunk_grid.h"
#include "server/security/tenant_quotas.h"
#include "server/session/memory_budget.h"
#include "server/session/session_spec.h"
#include "server/session/session_state.h"
#include "server/session/turnstile.h"

namespace mnemosyne::server {

// A session has at most one holder, a stream or a unary caller, named by an epoch that grows with
// each change of hands: the newer wins. It has one turn, and whoever has that may touch the state.
//
// Thread-safety: thread-safe, but for state(), which belongs to the holder of the turn.
// Ownership: shared by the store, its stream and the executor; deleting it from the store closes
// it, and the last of them frees it.
class Session {
 public:
  // What others may know of it.
  struct Progress {
    int64_t epoch = 0;
    int64_t last_step = 0;
    std::optional<Clock::Time> last_step_time;
    bool held = false;
    std::optional<optim::GuardReport> guard;  // Of the last step.
    int64_t non_finite_count = 0;             // Elements of gradients, over all steps.
    int64_t skipped_count = 0;                // Parameters left out for them, over all steps.
  };

  // Told to a holder that loses the session, and why. Called without locks of the session.
  using Eviction = std::function<void(const absl::Status&)>;

  // What a session is made of.
  struct Parts {
    std::string name;
    std::string token;
    std::string tenant;
    std::string device;
    SessionSpec spec;  // Checked; its parameters have moved into `layout`.
    std::shared_ptr<optim::Optimizer> optimizer;
    std::shared_ptr<const StepRules> rules;
    optim::ParameterLayout layout;
    size_t cell_elements;
    int64_t state_bytes;
    MemoryBudget::Reservation reservation;
    TenantQuotas::Share share;
  };

  Session(Parts parts, const Clock& clock);

  // Allocates the state. Runs on the executor's thread, before anyone else knows the session.
  absl::Status Allocate(kernels::Backend& backend);

  const std::string& name() const { return name_; }

  // Whose it is; for all others it does not exist.
  const std::string& tenant() const { return tenant_; }

  const std::string& device() const { return device_; }
  const optim::OptimizerInfo& optimizer() const { return optimizer_->info(); }

  // The optimizer itself, shared with other sessions, for the executor's thread alone.
  optim::Optimizer& rule() { return *optimizer_; }

  const optim::ParameterLayout& layout() const { return layout_; }
  const codec::ChunkGrid& grid() const { return grid_; }
  int64_t state_bytes() const { return state_bytes_; }
  int64_t reserved_bytes() const { return reservation_.bytes(); }
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
  // reason SUPERSEDED. NotFound if the session was deleted, Internal if it is quarantined.
  absl::StatusOr<int64_t> Take(Eviction eviction);

  // Lets go, if `epoch` still holds.
  void Release(int64_t epoch);

  // Ok if `epoch` holds; else Aborted, reason SUPERSEDED. NotFound and Internal as Take.
  absl::Status CheckHolder(int64_t epoch) const;

  // Ok unless the session was deleted (NotFound) or is quarantined (Internal).
  absl::Status CheckUsable() const;

  // Evicts the holder with NotFound; nobody can take the session any more.
  void Close();

  // Keeps everyone off after a failed internal check; the holder is evicted.
  void Quarantine(const absl::Status& cause);

  Progress progress() const;

  // Tells the others how far the state is. Called in the turn, after an import or a step.
  void ReportStep(int64_t last_step);
  void ReportStep(const StepOutcome& outcome);

  Turnstile& turnstile() { return *turnstile_; }

  SessionState& state() { return state_; }
  const SessionState& state() const { return state_; }

 private:
  const std::string name_;
  const std::string token_;
  const std::string tenant_;
  const std::string device_;
  const std::shared_ptr<optim::Optimizer> optimizer_;  // Outlives the state below.
  const optim::ParameterLayout layout_;
  const codec::ChunkGrid grid_;
  const int64_t state_bytes_;
  const MemoryBudget::Reservation reservation_;
  const TenantQuotas::Share share_;
  const Clock& clock_;
  const Clock::Time create_time_;
  const std::shared_ptr<Turnstile> turnstile_;

  SessionState state_;  // Touched only in the turn.

  mutable Mutex mutex_;
  SessionSpec spec_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const StepRules> rules_ ABSL_GUARDED_BY(mutex_);
  Progress progress_ ABSL_GUARDED_BY(mutex_);
  Eviction eviction_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);  // Not ok once nobody may take it.
};

}  // namespace mnemosyne::server
