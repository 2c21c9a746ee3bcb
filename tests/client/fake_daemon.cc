#include "tests/client/fake_daemon.h"

#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "base/check.h"
#include "base/checksum.h"
#include "base/data_type.h"
#include "mnemosyne/v1/error.pb.h"

namespace mnemosyne {
namespace {

DataType Encoding(v1::DataType type) {
  return type == v1::DATA_TYPE_UNSPECIFIED ? DataType::kFloat32 : static_cast<DataType>(type);
}

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string ReasonOf(const grpc::Status& status) {
  v1::ErrorStatus details;
  v1::ErrorInfo info;
  MNEMO_CHECK(details.ParseFromString(status.error_details()));
  MNEMO_CHECK(info.ParseFromString(details.details(0).value()));
  return info.reason();
}

}  // namespace

grpc::Status ErrorWithReason(grpc::StatusCode code, const std::string& reason,
                             const std::string& message,
                             const std::map<std::string, std::string>& metadata) {
  v1::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("mnemosyne");
  info.mutable_metadata()->insert(metadata.begin(), metadata.end());
  v1::ErrorStatus details;
  details.set_code(code);
  details.set_message(message);
  auto* any = details.add_details();
  any->set_type_url("type.googleapis.com/google.rpc.ErrorInfo");
  any->set_value(info.SerializeAsString());
  return grpc::Status(code, message, details.SerializeAsString());
}

FakeDaemon::FakeDaemon() : FakeDaemon(Options()) {}

FakeDaemon::FakeDaemon(Options options) : options_(std::move(options)) {
  grpc::EnableDefaultHealthCheckService(true);
  Start();
}

FakeDaemon::~FakeDaemon() { Stop(); }

std::string FakeDaemon::address() const {
  return options_.socket.empty() ? "127.0.0.1:" + std::to_string(port_) : "unix:" + options_.socket;
}

void FakeDaemon::Start() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = false;
  }
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address(), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  MNEMO_CHECK(server_ != nullptr);
  port_ = port;
}

void FakeDaemon::Stop() {
  if (!server_) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

void FakeDaemon::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(serving);
}

void FakeDaemon::Inject(Fault fault) {
  const std::lock_guard lock(mutex_);
  faults_.push_back(fault);
}

bool FakeDaemon::Take(Fault fault) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find(faults_.begin(), faults_.end(), fault);
  if (found == faults_.end()) return false;
  faults_.erase(found);
  return true;
}

void FakeDaemon::SetDurableStep(int64_t step) {
  const std::lock_guard lock(mutex_);
  durable_step_ = step;
}

void FakeDaemon::CrashBackTo(int64_t step) {
  Stop();
  {
    const std::lock_guard lock(mutex_);
    for (const auto& each : sessions_) {
      each->session.set_last_step(step);
      each->last_gradients.clear();
      each->last_updates.clear();
    }
  }
  Start();
}

void FakeDaemon::TakeOver() {
  const std::lock_guard lock(mutex_);
  for (const auto& each : sessions_) each->session.set_epoch(each->session.epoch() + 1);
}

int FakeDaemon::applied_count() const {
  const std::lock_guard lock(mutex_);
  return applied_count_;
}

int FakeDaemon::open_count() const {
  const std::lock_guard lock(mutex_);
  return open_count_;
}

int FakeDaemon::session_count() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(sessions_.size());
}

v1::StepBegin FakeDaemon::last_begin() const {
  const std::lock_guard lock(mutex_);
  return last_begin_;
}

bool FakeDaemon::had_checksums() const {
  const std::lock_guard lock(mutex_);
  return had_checksums_;
}

int FakeDaemon::message_count() const {
  const std::lock_guard lock(mutex_);
  return message_count_;
}

bool FakeDaemon::WaitForHeartbeats(int count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(20),
                           [&] { return heartbeat_count_ >= count; });
}

void FakeDaemon::WaitUntilCancelled(grpc::ServerContext* context) {
  std::unique_lock lock(mutex_);
  while (!context->IsCancelled() && !stopping_) {
    changed_.wait_for(lock, std::chrono::milliseconds(10));
  }
}

grpc::Status FakeDaemon::Find(const std::string& name, FakeSession** session) {
  const std::lock_guard lock(mutex_);
  for (const auto& candidate : sessions_) {
    if (candidate->session.name() != name) continue;
    *session = candidate.get();
    return grpc::Status::OK;
  }
  return ErrorWithReason(grpc::StatusCode::NOT_FOUND, "SESSION_NOT_FOUND", "no such session");
}

grpc::Status FakeDaemon::Check(const std::string& name, const std::string& token,
                               FakeSession** session) {
  if (grpc::Status status = Find(name, session); !status.ok()) return status;
  if ((*session)->token == token) return grpc::Status::OK;
  return ErrorWithReason(grpc::StatusCode::PERMISSION_DENIED, "WRONG_TOKEN",
                         "the token is not the session's");
}

grpc::Status FakeDaemon::ListOptimizers(grpc::ServerContext*, const v1::ListOptimizersRequest*,
                                        v1::ListOptimizersResponse* response) {
  for (const std::string name : {"adamw", "lstm", "sgd"}) {
    v1::Optimizer& optimizer = *response->add_optimizers();
    optimizer.set_name(name);
    optimizer.set_learned(name == "lstm");
    if (optimizer.learned()) optimizer.set_weights_hash("c0ffee");
    optimizer.set_version("1");
    optimizer.set_description("Takes steps.");
    optimizer.set_state_bytes_per_element(8);
    v1::Hyperparameter& rate = *optimizer.add_hyperparameters();
    rate.set_name("learning_rate");
    rate.set_default_value(0.1);
    rate.set_maximum(std::numeric_limits<double>::infinity());
    rate.set_description("How far a step goes.");
  }
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::ReloadModels(grpc::ServerContext*, const v1::ReloadModelsRequest*,
                                      v1::ReloadModelsResponse* response) {
  v1::ModelVersion& loaded = *response->add_loaded();
  loaded.set_name("lstm");
  loaded.set_version("2");
  loaded.set_weights_hash("f00d");
  v1::RefusedModel& refused = *response->add_refused();
  refused.set_name("lstm");
  refused.set_version("3");
  refused.set_reason("truncated");
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::CreateSession(grpc::ServerContext*,
                                       const v1::CreateSessionRequest* request,
                                       v1::CreateSessionResponse* response) {
  if (request->spec().optimizer() != "adamw" && request->spec().optimizer() != "sgd") {
    return ErrorWithReason(grpc::StatusCode::NOT_FOUND, "UNKNOWN_OPTIMIZER",
                           "unknown optimizer: there are adamw, sgd");
  }
  {
    const std::lock_guard lock(mutex_);
    const auto same = [&](const auto& made) { return made->request_id == request->request_id(); };
    auto made = std::find_if(sessions_.begin(), sessions_.end(), same);
    if (made == sessions_.end()) {
      made = sessions_.insert(made, std::make_unique<FakeSession>());
      const std::string number = std::to_string(++sessions_made_);
      v1::Session& session = (*made)->session;
      session.set_name("sessions/" + number);
      *session.mutable_spec() = request->spec();
      session.set_cell_elements(options_.cell_elements);
      session.set_device("cpu");
      (*made)->token = "token" + number;
      (*made)->request_id = request->request_id();
    }
    *response->mutable_session() = (*made)->session;
    response->set_token((*made)->token);
  }
  if (Take(Fault::kLoseCreateAnswer)) return {grpc::StatusCode::UNAVAILABLE, "lost"};
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::GetSession(grpc::ServerContext*, const v1::GetSessionRequest* request,
                                    v1::GetSessionResponse* response) {
  FakeSession* session = nullptr;
  if (grpc::Status status = Find(request->name(), &session); !status.ok()) return status;
  const std::lock_guard lock(mutex_);
  *response->mutable_session() = session->session;
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest* request,
                                      v1::ListSessionsResponse* response) {
  // Pages of one session each.
  const std::lock_guard lock(mutex_);
  const size_t index =
      request->page_token().empty() ? 0 : std::stoul(std::string(request->page_token()));
  if (index >= sessions_.size()) return grpc::Status::OK;
  v1::Session& session = *response->add_sessions();
  session = sessions_[index]->session;
  session.mutable_spec()->clear_parameters();
  if (index + 1 < sessions_.size()) response->set_next_page_token(std::to_string(index + 1));
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::UpdateSession(grpc::ServerContext*,
                                       const v1::UpdateSessionRequest* request,
                                       v1::UpdateSessionResponse* response) {
  FakeSession* session = nullptr;
  if (auto status = Check(request->name(), request->token(), &session); !status.ok()) return status;
  const std::lock_guard lock(mutex_);
  v1::SessionSpec& spec = *session->session.mutable_spec();
  for (const std::string& path : request->update_mask().paths()) {
    if (path == "label") spec.set_label(request->spec().label());
    if (path != "hyperparameters") continue;
    for (const auto& [name, value] : request->spec().hyperparameters()) {
      (*spec.mutable_hyperparameters())[name] = value;
    }
  }
  *response->mutable_session() = session->session;
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::DeleteSession(grpc::ServerContext*,
                                       const v1::DeleteSessionRequest* request,
                                       v1::DeleteSessionResponse*) {
  FakeSession* session = nullptr;
  if (auto status = Check(request->name(), request->token(), &session); !status.ok()) return status;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(sessions_, [&](const auto& candidate) { return candidate.get() == session; });
  }
  if (Take(Fault::kLoseDeleteAnswer)) return {grpc::StatusCode::UNAVAILABLE, "lost"};
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                                       v1::GetServerInfoResponse* response) {
  if (Take(Fault::kUnavailable)) return {grpc::StatusCode::UNAVAILABLE, "not now"};
  response->set_version("9.8.7");
  response->set_protocol_revision(1);
  response->add_devices()->set_name("cpu");
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::Optimize(grpc::ServerContext* context, Stream* stream) {
  v1::OptimizeRequest request;
  if (!stream->Read(&request)) return grpc::Status::OK;
  FakeSession* session = nullptr;
  const v1::OpenStream open = request.open();
  if (auto status = Check(open.session(), open.token(), &session); !status.ok()) return status;
  if (Take(Fault::kRefuseOpen)) return {grpc::StatusCode::UNAVAILABLE, "starting"};

  v1::OptimizeResponse response;
  v1::StreamOpened& opened = *response.mutable_opened();
  {
    const std::lock_guard lock(mutex_);
    ++open_count_;
    session->session.set_epoch(session->session.epoch() + 1);
    opened.set_epoch(session->session.epoch());
    opened.set_last_applied_step(session->session.last_step());
    opened.set_keeps_sessions(options_.keeps_sessions);
  }
  opened.set_gradient_encoding(open.gradient_encoding());
  opened.set_update_encoding(open.update_encoding());
  opened.set_cell_elements(options_.cell_elements);
  opened.set_protocol_revision(1);
  opened.set_message_bytes_max(4 << 20);
  opened.set_heartbeat_seconds(options_.heartbeat_seconds);
  stream->Write(response);
  return Serve(context, stream, open, *session);
}

grpc::Status FakeDaemon::Serve(grpc::ServerContext* context, Stream* stream,
                               const v1::OpenStream& open, FakeSession& session) {
  v1::OptimizeRequest request;
  v1::StepBegin begin;
  std::vector<v1::TensorChunk> chunks;
  bool discarding = false;
  int messages = 0;
  while (stream->Read(&request)) {
    if (request.has_begin()) {
      begin = request.begin();
      chunks.clear();
      discarding = false;
      messages = 0;
      if (Take(Fault::kSupersede)) {
        return ErrorWithReason(grpc::StatusCode::ABORTED, "SUPERSEDED", "a newer stream came");
      }
      if (Take(Fault::kDeafness)) {
        WaitUntilCancelled(context);
        return grpc::Status::CANCELLED;
      }
      if (Take(Fault::kRefuseEarly)) {
        v1::OptimizeResponse response;
        response.mutable_error()->set_step(begin.step());
        response.mutable_error()->set_code(grpc::StatusCode::INVALID_ARGUMENT);
        response.mutable_error()->set_reason("UNKNOWN_PARAMETER");
        response.mutable_error()->set_message("no such parameter");
        stream->Write(response);
        discarding = true;
      }
    }
    ++messages;
    if (request.has_heartbeat()) {
      const std::lock_guard lock(mutex_);
      ++heartbeat_count_;
      changed_.notify_all();
      continue;
    }
    if (discarding) continue;
    for (auto& chunk : *request.mutable_chunks()) chunks.push_back(std::move(chunk));
    if (!request.has_end()) continue;
    {
      const std::lock_guard lock(mutex_);
      message_count_ = messages;
    }

    v1::OptimizeResponse response;
    if (Take(Fault::kBreakBeforeApply)) return {grpc::StatusCode::UNAVAILABLE, "broken"};
    v1::StepDone done;
    const grpc::Status applied = Apply(session, open, begin, chunks, done);
    if (!applied.ok()) {
      response.mutable_error()->set_step(begin.step());
      response.mutable_error()->set_code(applied.error_code());
      response.mutable_error()->set_reason(ReasonOf(applied));
      response.mutable_error()->set_message(applied.error_message());
      (*response.mutable_error()->mutable_metadata())["step"] = std::to_string(begin.step());
      stream->Write(response);
      continue;
    }
    if (Take(Fault::kBreakAfterApply)) return {grpc::StatusCode::UNAVAILABLE, "broken"};
    if (Take(Fault::kEndAfterApply)) return grpc::Status::OK;
    if (Take(Fault::kSilence)) {
      WaitUntilCancelled(context);
      return grpc::Status::CANCELLED;
    }
    if (!Answer(stream, session, done)) return {grpc::StatusCode::UNAVAILABLE, "broken"};
  }
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::Apply(FakeSession& session, const v1::OpenStream& open,
                               const v1::StepBegin& begin,
                               const std::vector<v1::TensorChunk>& chunks, v1::StepDone& done) {
  if (Take(Fault::kNonFinite)) {
    return ErrorWithReason(grpc::StatusCode::INVALID_ARGUMENT, "NON_FINITE", "a NaN in weight");
  }
  if (Take(Fault::kQueueFull)) {
    return ErrorWithReason(grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL", "later");
  }
  const std::lock_guard lock(mutex_);
  last_begin_ = begin;
  done.set_step(begin.step());
  done.set_last_durable_step(durable_step_);
  std::string gradients;
  had_checksums_ = true;
  for (const auto& chunk : chunks) {
    gradients += chunk.payload();
    if (!chunk.has_crc32c() || chunk.crc32c() != Crc32c(Bytes(chunk.payload()))) {
      had_checksums_ = false;
    }
  }
  if (begin.step() == session.session.last_step()) {
    if (gradients != session.last_gradients) {
      return ErrorWithReason(grpc::StatusCode::FAILED_PRECONDITION, "RESEND_DIFFERS", "differs");
    }
    done.set_replayed(true);
    return grpc::Status::OK;
  }
  if (begin.step() != session.session.last_step() + 1) {
    return ErrorWithReason(grpc::StatusCode::OUT_OF_RANGE, "STEP_GAP", "a gap");
  }

  const auto& hyperparameters = session.session.spec().hyperparameters();
  const auto found = hyperparameters.find("learning_rate");
  const double rate = found == hyperparameters.end() ? 0.1 : found->second;
  const DataType in = Encoding(open.gradient_encoding());
  const DataType out = Encoding(open.update_encoding());
  session.last_gradients = gradients;
  session.last_updates.clear();
  for (const auto& chunk : chunks) {
    std::vector<float> values(chunk.payload().size() / ElementSize(in));
    DecodeElements(in, Bytes(chunk.payload()).data(), values.data(), values.size());
    for (float& value : values) value *= static_cast<float>(-rate / options_.scale);
    std::string payload(values.size() * ElementSize(out), '\0');
    EncodeElements(out, values.data(), reinterpret_cast<std::byte*>(payload.data()), values.size());
    v1::TensorChunk& update = session.last_updates.emplace_back();
    update.set_parameter(chunk.parameter());
    update.set_cell(chunk.cell());
    update.set_decay(options_.decay);
    if (options_.scale != 1) update.set_scale(options_.scale);
    if (open.checksums()) update.set_crc32c(Crc32c(Bytes(payload)));
    update.set_payload(std::move(payload));
  }
  session.session.set_last_step(begin.step());
  ++applied_count_;
  return grpc::Status::OK;
}

bool FakeDaemon::Answer(Stream* stream, const FakeSession& session, const v1::StepDone& done) {
  std::vector<v1::TensorChunk> updates = session.last_updates;
  if (Take(Fault::kUnknownCell)) updates.front().set_cell(1'000'000);
  if (Take(Fault::kMissingCell)) updates.pop_back();
  if (Take(Fault::kRepeatedCell)) updates.push_back(updates.front());
  if (Take(Fault::kWrongChecksum)) updates.front().set_crc32c(updates.front().crc32c() + 1);
  if (Take(Fault::kHeartbeatsFirst)) {
    v1::OptimizeResponse heartbeat;
    heartbeat.mutable_heartbeat();
    stream->Write(heartbeat);
    stream->Write(heartbeat);
  }
  v1::OptimizeResponse response;
  for (auto& update : updates) {
    *response.add_chunks() = std::move(update);
    if (response.chunks_size() < options_.chunks_per_message) continue;
    stream->Write(response);
    response.Clear();
    if (Take(Fault::kBreakInAnswer)) return false;
  }
  *response.mutable_done() = done;
  stream->Write(response);
  return true;
}

grpc::Status FakeDaemon::Step(grpc::ServerContext*, const v1::StepRequest* request,
                              v1::StepResponse* response) {
  FakeSession* session = nullptr;
  if (auto status = Check(request->session(), request->token(), &session); !status.ok()) {
    return status;
  }
  const std::vector<v1::TensorChunk> chunks(request->chunks().begin(), request->chunks().end());
  if (auto status = Apply(*session, {}, request->begin(), chunks, *response->mutable_done());
      !status.ok()) {
    return status;
  }
  response->mutable_chunks()->Assign(session->last_updates.begin(), session->last_updates.end());
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::ExportState(grpc::ServerContext*, const v1::ExportStateRequest* request,
                                     grpc::ServerWriter<v1::ExportStateResponse>* writer) {
  FakeSession* session = nullptr;
  if (auto status = Check(request->name(), request->token(), &session); !status.ok()) return status;
  v1::ExportStateResponse response;
  response.mutable_part()->mutable_header()->set_step(session->session.last_step());
  writer->Write(response);
  for (const char* data : {"first", "second"}) {
    response.mutable_part()->set_data(data);
    writer->Write(response);
  }
  response.mutable_part()->mutable_end()->set_crc32c(Crc32c(Bytes("firstsecond")));
  writer->Write(response);
  return grpc::Status::OK;
}

grpc::Status FakeDaemon::ImportState(grpc::ServerContext*,
                                     grpc::ServerReader<v1::ImportStateRequest>* reader,
                                     v1::ImportStateResponse* response) {
  v1::ImportStateRequest request;
  FakeSession* session = nullptr;
  std::string data;
  int64_t step = 0;
  while (reader->Read(&request)) {
    if (session == nullptr) {
      auto status = Check(request.name(), request.token(), &session);
      if (!status.ok()) return status;
    }
    if (request.part().has_header()) step = request.part().header().step();
    data += request.part().data();
    if (!request.part().has_end()) continue;
    if (request.part().end().crc32c() != Crc32c(Bytes(data))) {
      return ErrorWithReason(grpc::StatusCode::DATA_LOSS, "CHECKSUM_MISMATCH", "it differs");
    }
    const std::lock_guard lock(mutex_);
    session->session.set_last_step(step);
    *response->mutable_session() = session->session;
    return grpc::Status::OK;
  }
  return ErrorWithReason(grpc::StatusCode::INVALID_ARGUMENT, "STATE_MISMATCH", "no end");
}

}  // namespace mnemosyne
