#include "server/rpc/optimizer_service.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <string>
#include <utility>

#include "base/checksum.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "server/rpc/optimize_reactor.h"
#include "server/rpc/session_codec.h"
#include "server/rpc/state_call.h"
#include "server/rpc/status_codec.h"
#include "server/rpc/step_call.h"
#include "server/telemetry/log.h"
#include "server/telemetry/version.h"

namespace mnemosyne::server {
namespace {

constexpr size_t kRequestIdBytesMax = 128;
constexpr size_t kPageSizeMax = 1000;

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

// A fingerprint that does not depend on the order in which maps were sent.
uint64_t SpecFingerprint(const v1::SessionSpec& spec) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    spec.SerializeToCodedStream(&coded);
  }
  return Fingerprint(std::as_bytes(std::span(bytes)));
}

// A stream that is refused before it begins.
class RefusedStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit RefusedStream(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

OptimizerService::OptimizerService(const ModelRegistry& models, ModelReloader& reloader,
                                   SessionStore& store, StepExecutor& executor,
                                   StreamRegistry& streams, const Gatekeeper& gatekeeper,
                                   const StreamLimits& limits, const Clock& clock)
    : models_(models),
      reloader_(reloader),
      store_(store),
      executor_(executor),
      streams_(streams),
      gatekeeper_(gatekeeper),
      limits_(limits),
      clock_(clock),
      start_time_(clock.Now()) {}

grpc::ServerUnaryReactor* OptimizerService::ListOptimizers(grpc::CallbackServerContext* context,
                                                           const v1::ListOptimizersRequest*,
                                                           v1::ListOptimizersResponse* response) {
  for (const optim::OptimizerFactoryPtr& factory : models_.optimizers()->factories()) {
    *response->add_optimizers() = ToProto(factory->info());
  }
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OptimizerService::ReloadModels(grpc::CallbackServerContext* context,
                                                         const v1::ReloadModelsRequest*,
                                                         v1::ReloadModelsResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::Status submitted = reloader_.Submit([reactor, response](const ModelReload& reload) {
    *response = ToProto(reload);
    reactor->Finish(grpc::Status::OK);
  });
  if (!submitted.ok()) reactor->Finish(ToGrpcStatus(submitted));
  return reactor;
}

grpc::ServerUnaryReactor* OptimizerService::CreateSession(grpc::CallbackServerContext* context,
                                                          const v1::CreateSessionRequest* request,
                                                          v1::CreateSessionResponse* response) {
  const std::string& request_id = request->request_id();
  if (request_id.empty() || request_id.size() > kRequestIdBytesMax) {
    return Answer(context, WithReason(InvalidArgument("request_id has {} bytes, expected 1 to {}; "
                                                      "use a new UUID for each session",
                                                      request_id.size(), kRequestIdBytesMax),
                                      "INVALID_SPEC"));
  }
  auto spec = FromProto(request->spec());
  if (!spec.ok()) return Answer(context, spec.status());
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  store_.Create(request_id, SpecFingerprint(request->spec()), *std::move(spec),
                [reactor, response](const absl::StatusOr<std::shared_ptr<Session>>& created) {
                  if (created.ok()) {
                    const Session& session = **created;
                    *response->mutable_session() = ToProto(session, /*with_parameters=*/true);
                    response->set_token(session.token());
                    Log(spdlog::level::info, "session created",
                        {{"session", session.name()},
                         {"optimizer", session.optimizer().name},
                         {"version", session.optimizer().version},
                         {"parameters", session.layout().parameters().size()},
                         {"elements", session.layout().element_count()},
                         {"reserved_bytes", session.reserved_bytes()}});
                  }
                  reactor->Finish(ToGrpcStatus(created.status()));
                });
  return reactor;
}

grpc::ServerUnaryReactor* OptimizerService::GetSession(grpc::CallbackServerContext* context,
                                                       const v1::GetSessionRequest* request,
                                                       v1::GetSessionResponse* response) {
  const auto session = store_.Find(request->name());
  if (session.ok()) {
    *response->mutable_session() = ToProto(**session, /*with_parameters=*/true);
  }
  return Answer(context, session.status());
}

absl::Status OptimizerService::List(const v1::ListSessionsRequest& request,
                                    v1::ListSessionsResponse& response) {
  uint64_t after = 0;
  const std::string& page = request.page_token();
  if (!page.empty()) {
    const auto [end, error] = std::from_chars(page.data(), page.data() + page.size(), after);
    if (error != std::errc() || end != page.data() + page.size()) {
      return WithReason(InvalidArgument("page_token is not one that ListSessions returned"),
                        "INVALID_PAGE");
    }
  }
  if (request.page_size() < 0) {
    return WithReason(InvalidArgument("page_size is {}, expected at least 0", request.page_size()),
                      "INVALID_PAGE");
  }
  size_t size = static_cast<size_t>(request.page_size());
  size = size == 0 ? kPageSizeMax : std::min(size, kPageSizeMax);
  uint64_t next = 0;
  for (const auto& session : store_.List(size, after, &next)) {
    *response.add_sessions() = ToProto(*session, /*with_parameters=*/false);
  }
  if (next != 0) response.set_next_page_token(std::to_string(next));
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* OptimizerService::ListSessions(grpc::CallbackServerContext* context,
                                                         const v1::ListSessionsRequest* request,
                                                         v1::ListSessionsResponse* response) {
  return Answer(context, List(*request, *response));
}

absl::Status OptimizerService::Update(const v1::UpdateSessionRequest& request,
                                      v1::UpdateSessionResponse& response) {
  MNEMO_ASSIGN_OR_RETURN(std::shared_ptr<Session> session,
                         store_.FindWithToken(request.name(), request.token()));
  SessionSpec spec = session->spec();
  MNEMO_RETURN_IF_ERROR(MergeSpec(request.spec(), request.update_mask(), spec));
  MNEMO_RETURN_IF_ERROR(CheckSessionSpec(spec));
  MNEMO_ASSIGN_OR_RETURN(auto rules, ResolveRules(spec, session->optimizer()));
  session->SetRules(std::move(spec), std::move(rules));
  *response.mutable_session() = ToProto(*session, /*with_parameters=*/false);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* OptimizerService::UpdateSession(grpc::CallbackServerContext* context,
                                                          const v1::UpdateSessionRequest* request,
                                                          v1::UpdateSessionResponse* response) {
  return Answer(context, Update(*request, *response));
}

absl::Status OptimizerService::Delete(const v1::DeleteSessionRequest& request, bool from_socket) {
  const bool trusted = from_socket && request.token().empty();
  MNEMO_ASSIGN_OR_RETURN(std::shared_ptr<Session> session,
                         trusted ? store_.Find(request.name())
                                 : store_.FindWithToken(request.name(), request.token()));
  store_.Delete(session);
  Log(spdlog::level::info, "session deleted",
      {{"session", session->name()}, {"steps", session->progress().last_step}});
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* OptimizerService::DeleteSession(grpc::CallbackServerContext* context,
                                                          const v1::DeleteSessionRequest* request,
                                                          v1::DeleteSessionResponse*) {
  return Answer(context, Delete(*request, gatekeeper_.FromSocket(*context)));
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* OptimizerService::Optimize(
    grpc::CallbackServerContext* context) {
  auto conversation = std::make_shared<OptimizeConversation>(store_, executor_, limits_, clock_);
  const absl::Status added = streams_.Add(conversation);
  if (!added.ok()) return new RefusedStream(added);
  return new OptimizeReactor(context, std::move(conversation));
}

grpc::ServerUnaryReactor* OptimizerService::Step(grpc::CallbackServerContext* context,
                                                 const v1::StepRequest* request,
                                                 v1::StepResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  RunStepCall(store_, executor_, limits_.message_bytes_max, *request, *response, *reactor);
  return reactor;
}

grpc::ServerWriteReactor<v1::ExportStateResponse>* OptimizerService::ExportState(
    grpc::CallbackServerContext* context, const v1::ExportStateRequest* request) {
  return StartExport(store_, executor_, WatchCall(context), *request);
}

grpc::ServerReadReactor<v1::ImportStateRequest>* OptimizerService::ImportState(
    grpc::CallbackServerContext* context, v1::ImportStateResponse* response) {
  return StartImport(store_, executor_, WatchCall(context), *response);
}

absl::StatusOr<std::shared_ptr<CallWatch>> OptimizerService::WatchCall(
    grpc::CallbackServerContext* context) {
  auto watch = std::make_shared<CallWatch>(context, limits_.step_timeout_seconds, clock_);
  MNEMO_RETURN_IF_ERROR(streams_.Add(watch));
  return watch;
}

grpc::ServerUnaryReactor* OptimizerService::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetServerInfoRequest*,
                                                          v1::GetServerInfoResponse* response) {
  response->set_version(kVersion);
  response->set_commit(kCommit);
  response->set_protocol_revision(kProtocolRevision);
  *response->mutable_start_time() = ToProto(start_time_);
  v1::Device& device = *response->add_devices();
  device.set_name(executor_.device_name());
  device.set_description(executor_.device_description());
  device.set_step_count(executor_.step_count());
  device.set_queue_length(static_cast<int64_t>(executor_.queue_length()));
  response->set_session_count(static_cast<int64_t>(store_.count()));
  response->set_session_count_max(static_cast<int64_t>(store_.limits().session_count_max));
  response->set_reserved_bytes(store_.budget().bytes_reserved());
  response->set_reserved_bytes_max(store_.budget().bytes_max());
  response->set_parameter_count_max(static_cast<int64_t>(store_.limits().parameter_count_max));
  response->set_message_bytes_max(limits_.message_bytes_max);
  for (const v1::DataType type :
       {v1::DATA_TYPE_FLOAT32, v1::DATA_TYPE_BFLOAT16, v1::DATA_TYPE_FLOAT16}) {
    response->add_encodings(type);
  }
  return Answer(context, absl::OkStatus());
}

}  // namespace mnemosyne::server
