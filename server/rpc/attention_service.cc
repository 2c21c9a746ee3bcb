#include "server/rpc/attention_service.h"

#include <utility>

#include "base/status_macros.h"
#include "server/rpc/attend_call.h"
#include "server/rpc/attention_codec.h"
#include "server/rpc/unary_call.h"

namespace mnemosyne::server {

grpc::ServerUnaryReactor* AttentionService::ListKernels(grpc::CallbackServerContext* context,
                                                        const v1::ListKernelsRequest* request,
                                                        v1::ListKernelsResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  if (caller.ok()) {
    *response = DescribeKernels();
    response->set_device(executor_.device_name());
  }
  call->End(caller.status());
  return call;
}

absl::StatusOr<std::shared_ptr<CallWatch>> AttentionService::Admit(
    grpc::CallbackServerContext* context, StreamOwner& owner) {
  MNEMO_ASSIGN_OR_RETURN(owner.caller, gatekeeper_.Identify(*context));
  MNEMO_ASSIGN_OR_RETURN(owner.share, quotas_.Take(owner.caller.tenant, {.streams = 1}));
  owner.record = [this, caller = owner.caller, peer = context->peer()](std::string_view action,
                                                                       std::string_view session,
                                                                       const absl::Status& status) {
    gatekeeper_.Record(peer, caller, action, session, status);
  };
  auto watch = std::make_shared<CallWatch>(context, owner.caller, idle_seconds_, clock_);
  MNEMO_RETURN_IF_ERROR(streams_.Add(watch));
  return watch;
}

grpc::ServerBidiReactor<v1::AttendRequest, v1::AttendResponse>* AttentionService::Attend(
    grpc::CallbackServerContext* context) {
  StreamOwner owner;
  auto watch = Admit(context, owner);
  return StartAttend(executor_, budget_, quotas_, std::move(owner), std::move(watch),
                     gatekeeper_.Count(*context));
}

}  // namespace mnemosyne::server
