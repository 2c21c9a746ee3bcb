// OptimizerService: one short method an rpc; no logic.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <string>

#include "base/clock.h"
#include "mnemosyne/v1/optimizer_service.grpc.pb.h"
#include "server/model/model_registry.h"
#include "server/model/model_reloader.h"
#include "server/rpc/call_watch.h"
#include "server/rpc/gatekeeper.h"
#include "server/rpc/optimize_conversation.h"
#include "server/rpc/stream_registry.h"
#include "server/session/device_set.h"
#include "server/session/session_store.h"

namespace mnemosyne::server {

// Every method in gRPC's callback form, and Optimize with raw messages, so that tensors are not
// copied on their way through protobuf.
using KeepingService = v1::OptimizerService::WithCallbackMethod_SnapshotSession<
    v1::OptimizerService::WithCallbackMethod_RewindSession<
        v1::OptimizerService::WithCallbackMethod_Drain<v1::OptimizerService::Service>>>;
using RawOptimizeService = v1::OptimizerService::WithRawCallbackMethod_Optimize<
    v1::OptimizerService::WithCallbackMethod_ListOptimizers<
        v1::OptimizerService::WithCallbackMethod_ReloadModels<
            v1::OptimizerService::WithCallbackMethod_CreateSession<
                v1::OptimizerService::WithCallbackMethod_GetSession<
                    v1::OptimizerService::WithCallbackMethod_ListSessions<
                        v1::OptimizerService::WithCallbackMethod_UpdateSession<
                            v1::OptimizerService::WithCallbackMethod_DeleteSession<
                                v1::OptimizerService::WithCallbackMethod_Step<
                                    v1::OptimizerService::WithCallbackMethod_ExportState<
                                        v1::OptimizerService::WithCallbackMethod_ImportState<
                                            v1::OptimizerService::WithCallbackMethod_GetServerInfo<
                                                KeepingService>>>>>>>>>>>>;

// Thread-safety: thread-safe; gRPC calls it from its own threads.
// Lifetime: everything it is given outlives it.
class OptimizerService final : public RawOptimizeService {
 public:
  OptimizerService(const ModelRegistry& models, ModelReloader& reloader, SessionStore& store,
                   const DeviceSet& devices, StreamRegistry& streams, const Gatekeeper& gatekeeper,
                   const StreamLimits& limits, const Clock& clock);

  grpc::ServerUnaryReactor* ListOptimizers(grpc::CallbackServerContext* context,
                                           const v1::ListOptimizersRequest* request,
                                           v1::ListOptimizersResponse* response) override;
  grpc::ServerUnaryReactor* ReloadModels(grpc::CallbackServerContext* context,
                                         const v1::ReloadModelsRequest* request,
                                         v1::ReloadModelsResponse* response) override;
  grpc::ServerUnaryReactor* CreateSession(grpc::CallbackServerContext* context,
                                          const v1::CreateSessionRequest* request,
                                          v1::CreateSessionResponse* response) override;
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* context,
                                       const v1::GetSessionRequest* request,
                                       v1::GetSessionResponse* response) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context,
                                         const v1::ListSessionsRequest* request,
                                         v1::ListSessionsResponse* response) override;
  grpc::ServerUnaryReactor* UpdateSession(grpc::CallbackServerContext* context,
                                          const v1::UpdateSessionRequest* request,
                                          v1::UpdateSessionResponse* response) override;
  grpc::ServerUnaryReactor* DeleteSession(grpc::CallbackServerContext* context,
                                          const v1::DeleteSessionRequest* request,
                                          v1::DeleteSessionResponse* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Optimize(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Step(grpc::CallbackServerContext* context,
                                 const v1::StepRequest* request,
                                 v1::StepResponse* response) override;
  grpc::ServerWriteReactor<v1::ExportStateResponse>* ExportState(
      grpc::CallbackServerContext* context, const v1::ExportStateRequest* request) override;
  grpc::ServerReadReactor<v1::ImportStateRequest>* ImportState(
      grpc::CallbackServerContext* context, v1::ImportStateResponse* response) override;
  grpc::ServerUnaryReactor* SnapshotSession(grpc::CallbackServerContext* context,
                                            const v1::SnapshotSessionRequest* request,
                                            v1::SnapshotSessionResponse* response) override;
  grpc::ServerUnaryReactor* RewindSession(grpc::CallbackServerContext* context,
                                          const v1::RewindSessionRequest* request,
                                          v1::RewindSessionResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;

 private:
  // Who makes a call that lasts, with its share of the tenant's streams; errors as
  // Gatekeeper::Identify and TenantQuotas::Take.
  absl::StatusOr<StreamOwner> OwnCall(grpc::CallbackServerContext* context);

  // A watch on a call that lasts; errors as StreamRegistry::Add.
  absl::StatusOr<std::shared_ptr<CallWatch>> WatchCall(grpc::CallbackServerContext* context,
                                                       const Caller& caller);
  static absl::Status Update(Session& session, const v1::UpdateSessionRequest& request,
                             v1::UpdateSessionResponse& response);
  absl::Status Delete(const Caller& caller, const v1::DeleteSessionRequest& request,
                      bool from_socket);
  absl::Status List(const Caller& caller, const v1::ListSessionsRequest& request,
                    v1::ListSessionsResponse& response);
  void Describe(const Caller& caller, v1::GetServerInfoResponse& response) const;

  const ModelRegistry& models_;
  ModelReloader& reloader_;
  SessionStore& store_;
  const DeviceSet& devices_;
  StreamRegistry& streams_;
  const Gatekeeper& gatekeeper_;
  const StreamLimits limits_;
  const Clock& clock_;
  const Clock::Time start_time_;
};

}  // namespace mnemosyne::server
