#include "mnemosyne/client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "client/cpp/backoff.h"
#include "client/cpp/channel.h"
#include "client/cpp/frames.h"
#include "client/cpp/rpc_status.h"
#include "client/cpp/state_file.h"
#include "client/cpp/step_reader.h"
#include "client/cpp/step_writer.h"
#include "client/cpp/stream_impl.h"
#include "mnemosyne/v1/optimizer_service.grpc.pb.h"

namespace mnemosyne {
namespace {

using std::chrono::steady_clock;
using std::chrono::system_clock;

constexpr int kSessionPageSize = 1'000;

// A random request_id of 128 bits.
std::string RandomId() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

std::vector<size_t> ElementCounts(const v1::SessionSpec& spec) {
  std::vector<size_t> counts;
  counts.reserve(static_cast<size_t>(spec.parameters_size()));
  for (const auto& parameter : spec.parameters()) {
    counts.push_back(std::accumulate(
        parameter.shape().begin(), parameter.shape().end(), size_t{1},
        [](size_t product, int64_t size) { return product * static_cast<size_t>(size); }));
  }
  return counts;
}

codec::ChunkView ViewOf(const v1::TensorChunk& chunk, std::span<const codec::Slice> payload) {
  codec::ChunkView view;
  view.parameter = chunk.parameter();
  view.cell = chunk.cell();
  view.decay = chunk.decay();
  view.scale = chunk.has_scale() ? chunk.scale() : 1;
  if (chunk.has_crc32c()) view.crc32c = chunk.crc32c();
  view.payload = codec::SliceCursor(payload);
  return view;
}

// The status in a grpc.health.v1.HealthCheckResponse, whose field 1 is 1 for SERVING; 0 if there
// is none.
uint64_t ServingStatus(const grpc::ByteBuffer& response) {
  std::vector<grpc::Slice> memory;
  if (!response.Dump(&memory).ok()) return 0;
  std::vector<codec::Slice> slices;
  for (const auto& slice : memory) {
    slices.push_back(std::as_bytes(std::span(slice.begin(), slice.size())));
  }
  codec::SliceCursor cursor(slices);
  constexpr uint64_t kStatusTag = 1 << 3;
  if (cursor.ReadVarint() != kStatusTag) return 0;
  return cursor.ReadVarint().value_or(0);
}

}  // namespace

class Client::Impl {
 public:
  Impl(std::string address, std::string target, const ClientOptions& call_options)
      : name(std::move(address)),
        target_name(std::move(target)),
        options(call_options),
        metadata(CallMetadata(options.credentials)),
        channel(MakeChannel(target_name, options.credentials)),
        stub(v1::OptimizerService::NewStub(channel)) {}

  // Makes a call, again and again while the daemon is away, until call_timeout. `tries`, if given,
  // is the number of calls made.
  absl::Status Call(const std::function<grpc::Status(grpc::ClientContext&)>& call,
                    int* tries = nullptr) const {
    const auto end = steady_clock::now() + options.call_timeout;
    Backoff backoff(options.retry);
    while (true) {
      grpc::ClientContext context;
      Sign(context);
      context.set_deadline(system_clock::now() + (end - steady_clock::now()));
      if (tries != nullptr) ++*tries;
      absl::Status status = FromGrpc(call(context));
      const auto wait = backoff.Next();
      if (!IsTransient(status) || steady_clock::now() + wait >= end) return status;
      std::this_thread::sleep_for(wait);
    }
  }

  // Says who makes a call.
  void Sign(grpc::ClientContext& context) const {
    for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
  }

  const std::string name;
  const std::string target_name;
  const ClientOptions options;
  const std::map<std::string, std::string> metadata;
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<v1::OptimizerService::Stub> stub;
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(std::string_view address,
                                                        const ClientOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(std::string target, ChannelTarget(address));
  MNEMO_RETURN_IF_ERROR(CheckCredentials(target, options.credentials));
  auto impl = std::make_unique<Impl>(std::string(address), std::move(target), options);
  if (!impl->channel->WaitForConnected(system_clock::now() + options.connect_timeout)) {
    return Unavailable("no daemon answers at {} within {} ms", address,
                       options.connect_timeout.count());
  }
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

absl::StatusOr<std::vector<v1::Optimizer>> Client::ListOptimizers() {
  v1::ListOptimizersResponse response;
  MNEMO_RETURN_IF_ERROR(impl_->Call([&](grpc::ClientContext& context) {
    return impl_->stub->ListOptimizers(&context, {}, &response);
  }));
  return std::vector<v1::Optimizer>(response.optimizers().begin(), response.optimizers().end());
}

absl::StatusOr<v1::ReloadModelsResponse> Client::ReloadModels() {
  v1::ReloadModelsResponse response;
  MNEMO_RETURN_IF_ERROR(impl_->Call([&](grpc::ClientContext& context) {
    return impl_->stub->ReloadModels(&context, {}, &response);
  }));
  return response;
}

absl::StatusOr<CreatedSession> Client::CreateSession(const v1::SessionSpec& spec,
                                                     std::string_view request_id) {
  v1::CreateSessionRequest request;
  request.set_request_id(request_id.empty() ? RandomId() : std::string(request_id));
  *request.mutable_spec() = spec;
  v1::CreateSessionResponse response;
  MNEMO_RETURN_IF_ERROR(impl_->Call([&](grpc::ClientContext& context) {
    return impl_->stub->CreateSession(&context, request, &response);
  }));
  return CreatedSession{std::move(*response.mutable_session()), response.token()};
}

absl::StatusOr<v1::Session> Client::GetSession(std::string_view name) {
  v1::GetSessionRequest request;
  request.set_name(std::string(name));
  v1::GetSessionResponse response;
  MNEMO_RETURN_IF_ERROR(impl_->Call([&](grpc::ClientContext& context) {
    return impl_->stub->GetSession(&context, request, &response);
  }));
  return std::move(*response.mutable_session());
}

absl::StatusOr<std::vector<v1::Session>> Client::ListSessions() {
  v1::ListSessionsRequest request;
  request.set_page_size(kSessionPageSize);
  std::vector<v1::Session> sessions;
  do {
    v1::ListSessionsResponse response;
    MNEMO_RETURN_IF_ERROR(impl_->Call([&](grpc::ClientContext& context) {
      return impl_->stub->ListSessions(&context, request, &response);
    }));
    sessions.insert(sessions.end(), response.sessions().begin(), response.sessions().end());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return sessions;
}

absl::StatusOr<v1::Session> Client::UpdateSession(const SessionKey& key,
                                                  const v1::SessionSpec& spec,
                                                  const std::vector<std::string>& paths) {
  v1::UpdateSessionRequest request;
  request.set_name(key.name);
  request.set_token(key.token);
  *request.mutable_spec() = spec;
  for (const auto& path : paths) request.mutable_update_mask()->add_paths(path);
  v1::UpdateSessionResponse response;
  MNEMO_RETURN_IF_ERROR(impl_->Call([&](grpc::ClientContext& context) {
    return impl_->stub->UpdateSession(&context, request, &response);
  }));
  return std::move(*response.mutable_session());
}

absl::StatusOr<int64_t> Client::SnapshotSession(const SessionKey& key, std::string_view pin,
                                                int64_t step) {
  v1::SnapshotSessionRequest request;
  request.set_name(key.name);
  request.set_token(key.token);
  request.set_pin(std::string(pin));
  request.set_step(step);
  v1::SnapshotSessionResponse response;
  MNEMO_RETURN_IF_ERROR(impl_->Call([&](grpc::ClientContext& context) {
    return impl_->stub->SnapshotSession(&context, request, &response);
  }));
  return response.step();
}

absl::StatusOr<v1::Session> Client::RewindSession(const SessionKey& key, std::string_view pin) {
  v1::RewindSessionRequest request;
  request.set_name(key.name);
  request.set_token(key.token);
  request.set_pin(std::string(pin));
  v1::RewindSessionResponse response;
  MNEMO_RETURN_IF_ERROR(impl_->Call([&](grpc::ClientContext& context) {
    return impl_->stub->RewindSession(&context, request, &response);
  }));
  return std::move(*response.mutable_session());
}

absl::Status Client::Drain() {
  v1::DrainResponse response;
  return impl_->Call(
      [&](grpc::ClientContext& context) { return impl_->stub->Drain(&context, {}, &response); });
}

absl::Status Client::DeleteSession(const SessionKey& key) {
  v1::DeleteSessionRequest request;
  request.set_name(key.name);
  request.set_token(key.token);
  v1::DeleteSessionResponse response;
  int tries = 0;
  const absl::Status status = impl_->Call(
      [&](grpc::ClientContext& context) {
        return impl_->stub->DeleteSession(&context, request, &response);
      },
      &tries);
  // The answer to an earlier try was lost.
  if (tries > 1 && absl::IsNotFound(status)) return absl::OkStatus();
  return status;
}

absl::StatusOr<std::unique_ptr<OptimizeStream>> Client::OpenStream(const SessionKey& key,
                                                                   const StreamOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const v1::Session session, GetSession(key.name));
  auto stream = std::make_unique<OptimizeStream::Impl>(
      impl_->target_name, impl_->options.credentials, key.name, key.token,
      ElementCounts(session.spec()), options);
  MNEMO_RETURN_IF_ERROR(stream->Open());
  return std::unique_ptr<OptimizeStream>(new OptimizeStream(std::move(stream)));
}

absl::StatusOr<StepResult> Client::Step(const v1::Session& session, std::string_view token,
                                        Tensors gradients, MutableTensors updates,
                                        const StepOptions& options) {
  const std::vector<size_t> counts = ElementCounts(session.spec());
  MNEMO_RETURN_IF_ERROR(CheckTensors(counts, gradients, updates, options));
  if (session.cell_elements() < 1) return InvalidArgument("the session has no cell_elements");
  const codec::ChunkGrid grid(counts, static_cast<size_t>(session.cell_elements()));

  v1::StepRequest request;
  request.set_session(session.name());
  request.set_token(std::string(token));
  *request.mutable_begin() = MakeStepBegin(options.step, options);
  const std::vector<bool> absent = AbsentParameters(counts.size(), options);
  for (size_t parameter = 0; parameter < counts.size(); ++parameter) {
    for (size_t cell = 0; !absent[parameter] && cell < grid.CellsOf(parameter); ++cell) {
      const auto [start, count] = grid.At(parameter, cell);
      const auto bytes = std::as_bytes(gradients[parameter].subspan(start, count));
      v1::TensorChunk& chunk = *request.add_chunks();
      chunk.set_parameter(static_cast<int32_t>(parameter));
      chunk.set_cell(static_cast<int32_t>(cell));
      chunk.set_payload(bytes.data(), bytes.size());
    }
  }

  v1::StepResponse response;
  MNEMO_RETURN_IF_ERROR(impl_->Call([&](grpc::ClientContext& context) {
    return impl_->stub->Step(&context, request, &response);
  }));
  StepReader reader(grid, DataType::kFloat32, updates);
  for (const v1::TensorChunk& chunk : response.chunks()) {
    const std::array<codec::Slice, 1> payload = {std::as_bytes(std::span(chunk.payload()))};
    MNEMO_RETURN_IF_ERROR(reader.Take(ViewOf(chunk, payload)));
  }
  return reader.Finish(response.done(), options.absent_parameters);
}

absl::Status Client::ExportState(const SessionKey& key, std::ostream& target) {
  grpc::ClientContext context;
  impl_->Sign(context);
  v1::ExportStateRequest request;
  request.set_name(key.name);
  request.set_token(key.token);
  const auto reader = impl_->stub->ExportState(&context, request);
  v1::ExportStateResponse response;
  bool ended = false;
  absl::Status written;
  while (written.ok() && reader->Read(&response)) {
    written = WriteStatePart(response.part(), target);
    ended = response.part().has_end();
  }
  if (!written.ok()) context.TryCancel();
  const absl::Status status = FromGrpc(reader->Finish());
  MNEMO_RETURN_IF_ERROR(written);
  MNEMO_RETURN_IF_ERROR(status);
  return ended ? absl::OkStatus() : ProtocolViolation("a state without an end");
}

absl::Status Client::ExportStateToFile(const SessionKey& key, const std::filesystem::path& path) {
  return WriteFileWhole(path, [&](std::ostream& target) { return ExportState(key, target); });
}

absl::StatusOr<v1::Session> Client::ImportState(const SessionKey& key, std::istream& source) {
  StatePartReader reader(source);
  v1::ImportStateRequest request;
  request.set_name(key.name);
  request.set_token(key.token);

  grpc::ClientContext context;
  impl_->Sign(context);
  v1::ImportStateResponse response;
  const auto writer = impl_->stub->ImportState(&context, &response);
  absl::Status read;
  bool open = true;
  for (bool ended = false; open && !ended;) {
    auto part = reader.Next();
    if (!part.ok()) {
      read = part.status();
      context.TryCancel();  // A half-closed call could be taken for a whole one.
      break;
    }
    ended = part->has_end();
    *request.mutable_part() = *std::move(part);
    open = writer->Write(request);
    request.Clear();  // The name and the token are in the first message only.
  }
  if (read.ok()) writer->WritesDone();
  const absl::Status status = FromGrpc(writer->Finish());
  MNEMO_RETURN_IF_ERROR(read);
  MNEMO_RETURN_IF_ERROR(status);
  return std::move(*response.mutable_session());
}

absl::StatusOr<v1::Session> Client::ImportStateFromFile(const SessionKey& key,
                                                        const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("cannot open the state {}", path.string());
  return ImportState(key, file);
}

absl::StatusOr<v1::GetServerInfoResponse> Client::GetServerInfo() {
  v1::GetServerInfoResponse response;
  MNEMO_RETURN_IF_ERROR(impl_->Call([&](grpc::ClientContext& context) {
    return impl_->stub->GetServerInfo(&context, {}, &response);
  }));
  return response;
}

absl::Status Client::CheckHealth() {
  grpc::GenericStub stub(impl_->channel);
  const grpc::Slice empty;
  const grpc::ByteBuffer request(&empty, 1);
  grpc::ByteBuffer response;
  // One try: who asks wants to know how it is now.
  grpc::ClientContext context;
  context.set_deadline(system_clock::now() + impl_->options.call_timeout);
  grpc::CompletionQueue queue;
  grpc::Status status;
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);

  MNEMO_RETURN_IF_ERROR(FromGrpc(status));
  constexpr uint64_t kServing = 1;
  if (ServingStatus(response) != kServing) {
    return WithReason(Unavailable("the daemon is up but not serving"), "NOT_SERVING");
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne
