// AttentionService: one short method an rpc; no logic.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>

#include "base/clock.h"
#include "mnemosyne/v1/attention_service.grpc.pb.h"
#include "server/rpc/call_watch.h"
#include "server/rpc/gatekeeper.h"
#include "server/rpc/stream_owner.h"
#include "server/rpc/stream_registry.h"
#include "server/security/tenant_quotas.h"
#include "server/session/memory_budget.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {

// Thread-safety: thread-safe; gRPC calls it from its own threads.
// Lifetime: everything it is given outlives it.
class AttentionService final : public v1::AttentionService::CallbackService {
 public:
  // A stream that makes no progress for `idle_seconds` is ended.
  AttentionService(StepExecutor& executor, MemoryBudget& budget, TenantQuotas& quotas,
                   StreamRegistry& streams, const Gatekeeper& gatekeeper, int32_t idle_seconds,
                   const Clock& clock)
      : executor_(executor),
        budget_(budget),
        quotas_(quotas),
        streams_(streams),
        gatekeeper_(gatekeeper),
        idle_seconds_(idle_seconds),
        clock_(clock) {}

  grpc::ServerUnaryReactor* ListKernels(grpc::CallbackServerContext* context,
                                        const v1::ListKernelsRequest* request,
                                        v1::ListKernelsResponse* response) override;
  grpc::ServerBidiReactor<v1::AttendRequest, v1::AttendResponse>* Attend(
      grpc::CallbackServerContext* context) override;

 private:
  // Sets who makes the call, with its share of the tenant's streams, and has the call watched.
  // Errors as Gatekeeper::Identify, TenantQuotas::Take and StreamRegistry::Add.
  absl::StatusOr<std::shared_ptr<CallWatch>> Admit(grpc::CallbackServerContext* context,
                                                   StreamOwner& owner);

  StepExecutor& executor_;
  MemoryBudget& budget_;
  TenantQuotas& quotas_;
  StreamRegistry& streams_;
  const Gatekeeper& gatekeeper_;
  const int32_t idle_seconds_;
  const Clock& clock_;
};

}  // namespace mnemosyne::server
