// Attend: blocks of tensors on their way in, and answers on their way out.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>

#include "absl/status/statusor.h"
#include "mnemosyne/v1/attention_service.pb.h"
#include "server/rpc/call_watch.h"
#include "server/rpc/connection_guard.h"
#include "server/rpc/stream_owner.h"
#include "server/security/tenant_quotas.h"
#include "server/session/memory_budget.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {

// Serves a stream, or refuses it at once with the status of `watch`. The reactor owns itself; the
// others outlive it. A block's memory is reserved when it begins and given back when its answer has
// left; that of a running state when the stream ends.
grpc::ServerBidiReactor<v1::AttendRequest, v1::AttendResponse>* StartAttend(
    StepExecutor& executor, MemoryBudget& budget, TenantQuotas& quotas, StreamOwner owner,
    absl::StatusOr<std::shared_ptr<CallWatch>> watch, ConnectionCall call);

}  // namespace mnemosyne::server
