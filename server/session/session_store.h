// All sessions of the daemon.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/model/model_registry.h"
#include "server/session/memory_budget.h"
#include "server/session/session.h"
#include "server/session/session_spec.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {

// Bounds on sessions.
struct SessionLimits {
  size_t session_count_max = 1024;
  size_t parameter_count_max = 100'000;
  size_t cell_elements = codec::kDefaultCellElements;
};

// Makes sessions within the bounds, finds them, and lets them go.
//
// Thread-safety: thread-safe. The executor, the budget and the models outlive it.
class SessionStore {
 public:
  // A session that was just made, or made before by the same request.
  using CreateCallback = std::function<void(absl::StatusOr<std::shared_ptr<Session>>)>;

  SessionStore(SessionLimits limits, MemoryBudget& budget, const ModelRegistry& models,
               StepExecutor& executor, const Clock& clock);

  // Makes a session and calls `done`, on this thread or the executor's. A repeated `request_id`
  // with the same `spec_fingerprint` gets the session of the first call.
  //
  // The optimizer is the one that can be had now; a repeated call does not look for it again.
  //
  // Errors: those of CheckSessionSpec, OptimizerRegistry::Find, ResolveRules and
  // ParameterLayout::Create (INVALID_PARAMETER); ResourceExhausted with reason TOO_MANY_SESSIONS,
  // TOO_MANY_PARAMETERS or MEMORY_EXHAUSTED; AlreadyExists with reason REQUEST_ID_REUSED for
  // another fingerprint.
  void Create(const std::string& request_id, uint64_t spec_fingerprint, SessionSpec spec,
              CreateCallback done);

  // NotFound with reason SESSION_NOT_FOUND.
  absl::StatusOr<std::shared_ptr<Session>> Find(std::string_view name) const;

  // As Find, and PermissionDenied with reason WRONG_TOKEN if `token` is not the session's.
  absl::StatusOr<std::shared_ptr<Session>> FindWithToken(std::string_view name,
                                                         std::string_view token) const;

  // Up to `count` sessions in order of creation, those after the one with number `after` (0 for the
  // first). `next` gets the number to go on after, or 0 at the end.
  std::vector<std::shared_ptr<Session>> List(size_t count, uint64_t after, uint64_t* next) const;

  // Closes a session and forgets it; its memory is free once its last step is done.
  void Delete(const std::shared_ptr<Session>& session);

  size_t count() const;
  const SessionLimits& limits() const { return limits_; }
  MemoryBudget& budget() const { return budget_; }

 private:
  // A request to create, under way or done.
  struct Creation {
    uint64_t spec_fingerprint;
    std::vector<CreateCallback> waiting;
    std::shared_ptr<Session> session;  // Null while under way.
  };
  struct Entry {
    std::shared_ptr<Session> session;
    std::string request_id;
    uint64_t number;
  };

  // Checks everything and reserves and allocates memory.
  absl::StatusOr<std::shared_ptr<Session>> Prepare(SessionSpec spec,
                                                   const optim::OptimizerFactoryPtr& factory,
                                                   StepExecutor::Device& device) const;
  void Finish(const std::string& request_id, absl::StatusOr<std::shared_ptr<Session>> result);

  const SessionLimits limits_;
  MemoryBudget& budget_;
  const ModelRegistry& models_;
  StepExecutor& executor_;
  const Clock& clock_;

  mutable Mutex mutex_;
  std::map<std::string, Entry, std::less<>> sessions_ ABSL_GUARDED_BY(mutex_);  // By name.
  std::map<uint64_t, std::string> order_ ABSL_GUARDED_BY(mutex_);               // Number to name.
  std::map<std::string, Creation> creations_ ABSL_GUARDED_BY(mutex_);           // By request_id.
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mnemosyne::server
