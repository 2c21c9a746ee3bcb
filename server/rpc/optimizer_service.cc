#include "server/rpc/optimizer_service.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/checksum.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "server/rpc/optimize_reactor.h"
#include "server/rpc/session_codec.h"
#include "server/rpc/state_call.h"
#include "server/rpc/status_codec.h"
#include "server/rpc/step_call.h"
#include "server/rpc/unary_call.h"
#include "server/telemetry/log.h"
#include "server/telemetry/version.h"

namespace mnemosyne::server {
namespace {

constexpr size_t kRequestIdBytesMax = 128;
constexpr size_t kPageSizeMax = 1000;

grpc::ServerUnaryReactor* Answer(UnaryCall* call, const absl::Status& status) {
  call->End(status);
  return call;
}

// A fingerprint that does not depend on the order in which maps were sent, nor on whether a client
// is new enough to say what an older one leaves unset.
uint64_t SpecFingerprint(v1::SessionSpec spec) {
  if (spec.state_precision() == v1::STATE_PRECISION_FULL) spec.clear_state_precision();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    spec.SerializeToCodedStream(&coded);
  }
  return Fingerprint(std::as_bytes(std::span(bytes)));
}

// A place in the list of sessions as text: a number, and a tenant behind a dot if it has a name.
std::string MakePageToken(const SessionStore::Position& position) {
  const std::string number = std::to_string(position.number);
  return position.tenant.empty() ? number : number + "." + position.tenant;
}

// The place that a text names; the empty text is the beginning. Nothing for other texts.
std::optional<SessionStore::Position> ParsePageToken(std::string_view text) {
  SessionStore::Position position;
  if (text.empty()) return position;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), position.number);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  if (text.empty()) return position;
  if (text.front() != '.') return std::nullopt;
  position.tenant = text.substr(1);
  return position;
}

// A session of a daemon that keeps sessions, by name and token.
absl::StatusOr<std::shared_ptr<Session>> FindKept(const SessionStore& store, const Caller& caller,
                                                  const std::string& name,
                                                  const std::string& token) {
  MNEMO_ASSIGN_OR_RETURN(std::shared_ptr<Session> session,
                         store.FindWithToken(caller, name, token));
  if (store.keeper() == nullptr) {
    return WithReason(FailedPrecondition("this daemon keeps no snapshots: start it with "
                                         "--state-dir"),
                      "NOT_KEPT");
  }
  return session;
}

// A stream that is refused before it begins.
class RefusedStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit RefusedStream(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

OptimizerService::OptimizerService(const ModelRegistry& models, ModelReloader& reloader,
                                   SessionStore& store, const DeviceSet& devices,
                                   StreamRegistry& streams, const Gatekeeper& gatekeeper,
                                   const StreamLimits& limits, const Clock& clock)
    : models_(models),
      reloader_(reloader),
      store_(store),
      devices_(devices),
      streams_(streams),
      gatekeeper_(gatekeeper),
      limits_(limits),
      clock_(clock),
      start_time_(clock.Now()) {}

grpc::ServerUnaryReactor* OptimizerService::ListOptimizers(grpc::CallbackServerContext* context,
                                                           const v1::ListOptimizersRequest* request,
                                                           v1::ListOptimizersResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  for (const optim::OptimizerFactoryPtr& factory : models_.optimizers()->factories()) {
    *response->add_optimizers() = ToProto(factory->info());
  }
  return Answer(call, absl::OkStatus());
}

grpc::ServerUnaryReactor* OptimizerService::ReloadModels(grpc::CallbackServerContext* context,
                                                         const v1::ReloadModelsRequest* request,
                                                         v1::ReloadModelsResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.IdentifyAdmin(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  gatekeeper_.Record(*context, *caller, "ReloadModels", "", absl::OkStatus());
  const absl::Status submitted = reloader_.Submit([call, response](const ModelReload& reload) {
    *response = ToProto(reload);
    call->End(absl::OkStatus());
  });
  if (!submitted.ok()) call->End(submitted);
  return call;
}

grpc::ServerUnaryReactor* OptimizerService::CreateSession(grpc::CallbackServerContext* context,
                                                          const v1::CreateSessionRequest* request,
                                                          v1::CreateSessionResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  const std::string& request_id = request->request_id();
  if (request_id.empty() || request_id.size() > kRequestIdBytesMax) {
    return Answer(call, WithReason(InvalidArgument("request_id has {} bytes, expected 1 to {}; "
                                                   "use a new UUID for each session",
                                                   request_id.size(), kRequestIdBytesMax),
                                   "INVALID_SPEC"));
  }
  auto spec = FromProto(request->spec());
  if (!spec.ok()) return Answer(call, spec.status());
  store_.Create(*caller, request_id, SpecFingerprint(request->spec()), *std::move(spec),
                [this, context, caller = *caller, call,
                 response](const absl::StatusOr<std::shared_ptr<Session>>& created) {
                  gatekeeper_.Record(*context, caller, "CreateSession",
                                     created.ok() ? (*created)->name() : "", created.status());
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
                  call->End(created.status());
                });
  return call;
}

grpc::ServerUnaryReactor* OptimizerService::GetSession(grpc::CallbackServerContext* context,
                                                       const v1::GetSessionRequest* request,
                                                       v1::GetSessionResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  const auto session = store_.Find(*caller, request->name());
  if (session.ok()) {
    *response->mutable_session() = ToProto(**session, /*with_parameters=*/true);
  }
  return Answer(call, session.status());
}

absl::Status OptimizerService::List(const Caller& caller, const v1::ListSessionsRequest& request,
                                    v1::ListSessionsResponse& response) {
  const auto after = ParsePageToken(request.page_token());
  if (!after) {
    return WithReason(InvalidArgument("page_token is not one that ListSessions returned"),
                      "INVALID_PAGE");
  }
  if (request.page_size() < 0) {
    return WithReason(InvalidArgument("page_size is {}, expected at least 0", request.page_size()),
                      "INVALID_PAGE");
  }
  size_t size = static_cast<size_t>(request.page_size());
  size = size == 0 ? kPageSizeMax : std::min(size, kPageSizeMax);
  std::optional<SessionStore::Position> next;
  for (const auto& session : store_.List(caller, size, *after, &next)) {
    *response.add_sessions() = ToProto(*session, /*with_parameters=*/false);
  }
  if (next) response.set_next_page_token(MakePageToken(*next));
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* OptimizerService::ListSessions(grpc::CallbackServerContext* context,
                                                         const v1::ListSessionsRequest* request,
                                                         v1::ListSessionsResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  return Answer(call, caller.ok() ? List(*caller, *request, *response) : caller.status());
}

absl::Status OptimizerService::Update(Session& session, const v1::UpdateSessionRequest& request,
                                      v1::UpdateSessionResponse& response) {
  SessionSpec spec = session.spec();
  MNEMO_RETURN_IF_ERROR(MergeSpec(request.spec(), request.update_mask(), spec));
  MNEMO_RETURN_IF_ERROR(CheckSessionSpec(spec));
  MNEMO_ASSIGN_OR_RETURN(auto rules, ResolveRules(spec, session.optimizer()));
  session.SetRules(std::move(spec), std::move(rules));
  *response.mutable_session() = ToProto(session, /*with_parameters=*/false);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* OptimizerService::UpdateSession(grpc::CallbackServerContext* context,
                                                          const v1::UpdateSessionRequest* request,
                                                          v1::UpdateSessionResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  const auto session = store_.FindWithToken(*caller, request->name(), request->token());
  const auto update = [session, request, response] {
    return session.ok() ? Update(**session, *request, *response) : session.status();
  };
  const auto answer = [this, context, caller = *caller, request, call](const absl::Status& status) {
    gatekeeper_.Record(*context, caller, "UpdateSession", request->name(), status);
    call->End(status);
  };
  SessionKeeper* const keeper = store_.keeper();
  if (keeper == nullptr || !session.ok()) {
    answer(update());
    return call;
  }
  // Whether or not the rules could be kept, they are in force.
  const auto update_and_keep = [session, keeper, update, answer] {
    const absl::Status status = update();
    if (!status.ok()) return answer(status);
    keeper->KeepRules(*session, [answer](const absl::Status&) { answer(absl::OkStatus()); });
  };
  if ((*session)->in_memory()) {
    update_and_keep();
    return call;
  }
  // Loading brings back the rules of its snapshot, so it comes first.
  const absl::Status asked = store_.AskTurn(
      *session,
      [answer, update_and_keep](const absl::StatusOr<std::unique_ptr<Turnstile::Turn>>& turn) {
        turn.ok() ? update_and_keep() : answer(turn.status());
      });
  if (!asked.ok()) answer(asked);
  return call;
}

absl::Status OptimizerService::Delete(const Caller& caller, const v1::DeleteSessionRequest& request,
                                      bool from_socket) {
  // In an open daemon everybody is an admin, and only the socket tells the operator apart.
  const bool known = from_socket || gatekeeper_.asks();
  const bool trusted = caller.admin && known && request.token().empty();
  MNEMO_ASSIGN_OR_RETURN(std::shared_ptr<Session> session,
                         trusted ? store_.Find(caller, request.name())
                                 : store_.FindWithToken(caller, request.name(), request.token()));
  store_.Delete(session);
  Log(spdlog::level::info, "session deleted",
      {{"session", session->name()}, {"steps", session->progress().last_step}});
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* OptimizerService::DeleteSession(grpc::CallbackServerContext* context,
                                                          const v1::DeleteSessionRequest* request,
                                                          v1::DeleteSessionResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  const absl::Status status = Delete(*caller, *request, gatekeeper_.FromSocket(*context));
  gatekeeper_.Record(*context, *caller, "DeleteSession", request->name(), status);
  return Answer(call, status);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* OptimizerService::Optimize(
    grpc::CallbackServerContext* context) {
  auto owner = OwnCall(context);
  if (!owner.ok()) return new RefusedStream(owner.status());
  auto conversation =
      std::make_shared<OptimizeConversation>(store_, *std::move(owner), limits_, clock_);
  const absl::Status added = streams_.Add(conversation);
  if (!added.ok()) return new RefusedStream(added);
  return new OptimizeReactor(context, std::move(conversation), gatekeeper_.Count(*context));
}

grpc::ServerUnaryReactor* OptimizerService::Step(grpc::CallbackServerContext* context,
                                                 const v1::StepRequest* request,
                                                 v1::StepResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  RunStepCall(*caller, store_, limits_.message_bytes_max, *request, *response, *call);
  return call;
}

grpc::ServerWriteReactor<v1::ExportStateResponse>* OptimizerService::ExportState(
    grpc::CallbackServerContext* context, const v1::ExportStateRequest* request) {
  auto owner = OwnCall(context);
  if (!owner.ok()) return StartExport(store_, {}, owner.status(), *request, {});
  auto watch = WatchCall(context, owner->caller);
  return StartExport(store_, *std::move(owner), std::move(watch), *request,
                     gatekeeper_.Count(*context));
}

grpc::ServerReadReactor<v1::ImportStateRequest>* OptimizerService::ImportState(
    grpc::CallbackServerContext* context, v1::ImportStateResponse* response) {
  auto owner = OwnCall(context);
  if (!owner.ok()) return StartImport(store_, {}, owner.status(), *response, {});
  auto watch = WatchCall(context, owner->caller);
  return StartImport(store_, *std::move(owner), std::move(watch), *response,
                     gatekeeper_.Count(*context));
}

absl::StatusOr<StreamOwner> OptimizerService::OwnCall(grpc::CallbackServerContext* context) {
  StreamOwner owner;
  MNEMO_ASSIGN_OR_RETURN(owner.caller, gatekeeper_.Identify(*context));
  MNEMO_ASSIGN_OR_RETURN(owner.share, store_.quotas().Take(owner.caller.tenant, {.streams = 1}));
  // The call may outlive its context, but not its audit.
  owner.record = [this, caller = owner.caller, peer = context->peer()](std::string_view action,
                                                                       std::string_view session,
                                                                       const absl::Status& status) {
    gatekeeper_.Record(peer, caller, action, session, status);
  };
  return owner;
}

absl::StatusOr<std::shared_ptr<CallWatch>> OptimizerService::WatchCall(
    grpc::CallbackServerContext* context, const Caller& caller) {
  auto watch = std::make_shared<CallWatch>(context, caller, limits_.step_timeout_seconds, clock_);
  MNEMO_RETURN_IF_ERROR(streams_.Add(watch));
  return watch;
}

grpc::ServerUnaryReactor* OptimizerService::SnapshotSession(
    grpc::CallbackServerContext* context, const v1::SnapshotSessionRequest* request,
    v1::SnapshotSessionResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  auto session = FindKept(store_, *caller, request->name(), request->token());
  gatekeeper_.Record(*context, *caller, "SnapshotSession", request->name(), session.status());
  if (!session.ok()) return Answer(call, session.status());
  store_.keeper()->Snapshot(*session, request->pin(), request->step(),
                            [call, response](const absl::StatusOr<int64_t>& step) {
                              if (step.ok()) response->set_step(*step);
                              call->End(step.status());
                            });
  return call;
}

grpc::ServerUnaryReactor* OptimizerService::RewindSession(grpc::CallbackServerContext* context,
                                                          const v1::RewindSessionRequest* request,
                                                          v1::RewindSessionResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  const auto found = FindKept(store_, *caller, request->name(), request->token());
  gatekeeper_.Record(*context, *caller, "RewindSession", request->name(), found.status());
  if (!found.ok()) return Answer(call, found.status());
  const std::shared_ptr<Session>& session = *found;
  const auto epoch = session->Take(nullptr);
  if (!epoch.ok()) return Answer(call, epoch.status());
  session->Release(*epoch);
  // The state of now is given up: it need not be loaded.
  const absl::Status asked = session->turnstile().Ask(
      [this, call, response, session, pin = request->pin()](std::unique_ptr<Turnstile::Turn> turn) {
        store_.keeper()->Rewind(
            session, std::move(turn), pin, [call, response, session](const absl::Status& status) {
              *response->mutable_session() = ToProto(*session, /*with_parameters=*/false);
              call->End(status);
            });
      });
  if (!asked.ok()) call->End(asked);
  return call;
}

grpc::ServerUnaryReactor* OptimizerService::Drain(grpc::CallbackServerContext* context,
                                                  const v1::DrainRequest* request,
                                                  v1::DrainResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.IdentifyAdmin(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  if (!gatekeeper_.asks() && !gatekeeper_.FromSocket(*context)) {
    return Answer(call, WithReason(MakeError(absl::StatusCode::kPermissionDenied,
                                             "only callers on the daemon's Unix-domain socket "
                                             "may end it"),
                                   "SOCKET_ONLY"));
  }
  gatekeeper_.Record(*context, *caller, "Drain", "", absl::OkStatus());
  ::kill(::getpid(), SIGTERM);
  return Answer(call, absl::OkStatus());
}

grpc::ServerUnaryReactor* OptimizerService::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetServerInfoRequest* request,
                                                          v1::GetServerInfoResponse* response) {
  auto* const call = new UnaryCall(gatekeeper_.Count(*context), *request, *response);
  const auto caller = gatekeeper_.Identify(*context);
  if (!caller.ok()) return Answer(call, caller.status());
  response->set_version(kVersion);
  response->set_commit(kCommit);
  response->set_protocol_revision(kProtocolRevision);
  *response->mutable_start_time() = ToProto(start_time_);
  for (size_t i = 0; i < devices_.size(); ++i) {
    const StepExecutor& executor = devices_[i];
    v1::Device& device = *response->add_devices();
    device.set_name(executor.device_name());
    device.set_description(executor.device_description());
    device.set_queue_length(static_cast<int64_t>(executor.queue_length()));
    device.set_fault(std::string(ErrorMessage(executor.fault())));
    if (!caller->admin) continue;  // The rest tells of the sessions of all.
    device.set_step_count(executor.step_count());
    for (const int64_t count : executor.share_counts()) device.add_share_counts(count);
    if (!executor.has_own_memory()) continue;
    device.set_reserved_bytes(store_.budget().device_bytes_reserved(i));
    device.set_reserved_bytes_max(store_.budget().device_bytes_max(i));
  }
  Describe(*caller, *response);
  response->set_parameter_count_max(static_cast<int64_t>(store_.limits().parameter_count_max));
  response->set_message_bytes_max(limits_.message_bytes_max);
  for (const v1::DataType type :
       {v1::DATA_TYPE_FLOAT32, v1::DATA_TYPE_BFLOAT16, v1::DATA_TYPE_FLOAT16}) {
    response->add_encodings(type);
  }
  if (const SessionKeeper* keeper = store_.keeper()) {
    const KeeperHealth health = keeper->health();
    v1::StateKeeping& keeping = *response->mutable_state_keeping();
    keeping.set_enabled(true);
    // The rest tells of the sessions of all.
    if (!caller->admin) return Answer(call, absl::OkStatus());
    keeping.set_error(health.error);
    keeping.set_snapshot_count(health.snapshot_count);
    keeping.set_failure_count(health.failure_count);
    keeping.set_load_count(health.load_count);
    keeping.set_eviction_count(health.eviction_count);
    keeping.set_last_snapshot_seconds(health.last_snapshot_seconds);
    keeping.set_last_held_seconds(health.last_held_seconds);
    keeping.set_park_count(health.park_count);
    keeping.set_unpark_count(health.unpark_count);
    keeping.set_resident_count(health.resident_count);
    keeping.set_parked_count(health.parked_count);
    keeping.set_on_disk_count(health.on_disk_count);
  }
  return Answer(call, absl::OkStatus());
}

// A tenant is told of itself; how much the others have is not its business.
void OptimizerService::Describe(const Caller& caller, v1::GetServerInfoResponse& response) const {
  const auto least = [](int64_t own, int64_t all) { return own == 0 ? all : std::min(own, all); };
  const TenantLimits limits = store_.quotas().LimitsOf(caller.tenant);
  const TenantQuotas::Amounts held = store_.quotas().Held(caller.tenant);
  const auto session_count_max = static_cast<int64_t>(store_.limits().session_count_max);
  const int64_t bytes_max = store_.budget().bytes_max();
  response.set_session_count(caller.admin ? static_cast<int64_t>(store_.count()) : held.sessions);
  response.set_session_count_max(caller.admin ? session_count_max
                                              : least(limits.sessions, session_count_max));
  response.set_reserved_bytes(caller.admin ? store_.budget().bytes_reserved() : held.memory_bytes);
  response.set_reserved_bytes_max(caller.admin ? bytes_max : least(limits.memory_bytes, bytes_max));
}

}  // namespace mnemosyne::server
