// All sessions of the daemon.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/model/model_registry.h"
#include "server/security/caller.h"
#include "server/security/tenant_quotas.h"
#include "server/session/device_set.h"
#include "server/session/memory_budget.h"
#include "server/session/session.h"
#include "server/session/session_keeper.h"
#include "server/session/session_spec.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {

// Bounds on sessions.
struct SessionLimits {
  size_t session_count_max = 1024;
  size_t parameter_count_max = 100'000;
  size_t cell_elements = codec::kDefaultCellElements;
};

// Makes sessions within the bounds, finds them, and lets them go. Each belongs to the tenant that
// made it: whatever another tenant asks, it gets the answer that it would get if the session did
// not exist.
//
// Thread-safety: thread-safe. The devices, the budget, the quotas and the models outlive it.
class SessionStore {
 public:
  // A session that was just made, or made before by the same request.
  using CreateCallback = std::function<void(absl::StatusOr<std::shared_ptr<Session>>)>;

  // A place in the list of sessions, which goes by tenants and then by creation.
  struct Position {
    std::string tenant;
    uint64_t number = 0;  // Counts from 1 for each tenant.

    auto operator<=>(const Position&) const = default;
  };

  SessionStore(SessionLimits limits, MemoryBudget& budget, TenantQuotas& quotas,
               const ModelRegistry& models, const DeviceSet& devices, const Clock& clock);

  // Lets `keeper`, which outlives this, keep all sessions; before the first is made.
  void SetKeeper(SessionKeeper* keeper);

  // Takes back the sessions that are kept, without their states, which are loaded when somebody
  // comes. Waits for the device. Logs sessions that cannot be taken back.
  void Restore();

  // Gives the session's turn with its state in memory: loads that if it is not. `ready` is called
  // as Turnstile::Ask calls it, or on a thread of the keeper, and gets an error where the state
  // cannot be loaded: ResourceExhausted (MEMORY_EXHAUSTED) or DataLoss (STATE_LOST). Errors as
  // Turnstile::Ask.
  absl::Status AskTurn(const std::shared_ptr<Session>& session, SessionKeeper::TurnCallback ready);

  // Makes a session of the caller's tenant and calls `done`, on this thread or the executor's. A
  // repeated `request_id` of the same tenant with the same `spec_fingerprint` gets the session of
  // the first call.
  //
  // The optimizer is the one that can be had now; a repeated call does not look for it again.
  //
  // Errors: those of CheckSessionSpec, OptimizerRegistry::Find, ResolveRules and
  // ParameterLayout::Create (INVALID_PARAMETER); ResourceExhausted with reason TOO_MANY_SESSIONS,
  // TOO_MANY_PARAMETERS or MEMORY_EXHAUSTED, and those of TenantQuotas, with the metadata
  // `retry_after_ms` where an idle session is to expire; AlreadyExists with reason
  // REQUEST_ID_REUSED for another fingerprint.
  void Create(const Caller& caller, const std::string& request_id, uint64_t spec_fingerprint,
              SessionSpec spec, CreateCallback done);

  // NotFound with reason SESSION_NOT_FOUND, also for a session that the caller does not see.
  absl::StatusOr<std::shared_ptr<Session>> Find(const Caller& caller, std::string_view name) const;

  // As Find, and PermissionDenied with reason WRONG_TOKEN if `token` is not the session's.
  absl::StatusOr<std::shared_ptr<Session>> FindWithToken(const Caller& caller,
                                                         std::string_view name,
                                                         std::string_view token) const;

  // Up to `count` sessions that the caller sees, in order, those after `after`; the default is
  // before the first. `next` gets the position to go on after, or none at the end.
  std::vector<std::shared_ptr<Session>> List(const Caller& caller, size_t count,
                                             const Position& after,
                                             std::optional<Position>* next) const;

  // Closes a session and forgets it; its memory is free once its last step is done.
  void Delete(const std::shared_ptr<Session>& session);

  size_t count() const;
  const SessionLimits& limits() const { return limits_; }
  MemoryBudget& budget() const { return budget_; }
  TenantQuotas& quotas() const { return quotas_; }

  // Null if sessions are not kept.
  SessionKeeper* keeper() const { return keeper_; }

 private:
  using RequestKey = std::pair<std::string, std::string>;  // Tenant and request_id.

  // A request to create, under way or done.
  struct Creation {
    uint64_t spec_fingerprint;
    std::vector<CreateCallback> waiting;
    std::shared_ptr<Session> session;  // Null while under way.
  };
  struct Entry {
    std::shared_ptr<Session> session;
    RequestKey request;
    Position position;
  };

  // Who a session is, apart from its spec.
  struct Identity {
    RequestKey request;
    uint64_t spec_fingerprint = 0;
  };

  // Memory that other sessions have left for one, on a device.
  struct Room {
    StepExecutor* executor;
    MemoryBudget::Reservation memory;
  };

  // Checks everything and allocates memory, in `room`, or in a reservation of its own if that is
  // null.
  absl::StatusOr<std::shared_ptr<Session>> Prepare(const Identity& identity, SessionSpec spec,
                                                   const optim::OptimizerFactoryPtr& factory,
                                                   StepExecutor& executor,
                                                   MemoryBudget::Reservation* room,
                                                   StepExecutor::Device& device) const;
  // The parts of a session but for its name, token and reservation.
  absl::StatusOr<Session::Parts> MakeParts(SessionSpec spec,
                                           const optim::OptimizerFactoryPtr& factory,
                                           size_t cell_elements, StepExecutor& executor,
                                           StepExecutor::Device& device) const;
  // Prepares on the thread of the device with the most room; where memory is short, and `room`
  // null, comes again with the room that was made there.
  void Make(const Identity& identity, SessionSpec spec, optim::OptimizerFactoryPtr factory,
            std::shared_ptr<Room> room);
  absl::StatusOr<optim::OptimizerFactoryPtr> FindFactory(const SessionSpec& spec);
  absl::Status RestoreOne(SessionRecord record);
  void KeepModelOf(const SessionSpec& spec);
  void Drop(const std::shared_ptr<Session>& session);
  // Adds to a refusal for want of room when the first session expires, of the tenant or, where it
  // is null, of all: words, and the metadata `retry_after_ms`. As it is where none does.
  absl::Status TellExpiry(const absl::Status& refusal, const std::string* tenant) const;
  void Finish(const RequestKey& request, absl::StatusOr<std::shared_ptr<Session>> result);

  const SessionLimits limits_;
  MemoryBudget& budget_;
  TenantQuotas& quotas_;
  const ModelRegistry& models_;
  const DeviceSet& devices_;
  const Clock& clock_;
  SessionKeeper* keeper_ = nullptr;
  std::map<std::string, optim::OptimizerFactoryPtr> kept_models_;  // By hash; used in Restore.

  mutable Mutex mutex_;
  std::map<std::string, Entry, std::less<>> sessions_ ABSL_GUARDED_BY(mutex_);  // By name.
  std::map<Position, std::string> order_ ABSL_GUARDED_BY(mutex_);               // To names.
  std::map<RequestKey, Creation> creations_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint64_t> last_numbers_ ABSL_GUARDED_BY(mutex_);  // By tenant.
};

}  // namespace mnemosyne::server
