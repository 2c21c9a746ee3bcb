// What a stream asks of its session beside steps.
#include <chrono>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "client/cpp/backoff.h"
#include "client/cpp/channel.h"
#include "client/cpp/rpc_status.h"
#include "client/cpp/stream_impl.h"

namespace mnemosyne {

using std::chrono::steady_clock;

absl::Status OptimizeStream::Impl::Call(Time deadline, const StubCall& call) {
  std::shared_ptr<grpc::Channel> channel;
  {
    const absl::MutexLock lock(&mutex_);
    if (!channel_) channel_ = MakeChannel(target_, credentials_);
    channel = channel_;
  }
  const auto stub = v1::OptimizerService::NewStub(channel);
  Backoff backoff(options_.retry);
  while (true) {
    grpc::ClientContext context;
    for (const auto& [key, value] : CallMetadata(credentials_)) context.AddMetadata(key, value);
    context.set_deadline(std::chrono::system_clock::now() + (deadline - steady_clock::now()));
    const absl::Status status = FromGrpc(call(*stub, context));
    if (!IsTransient(status)) return status;
    const absl::MutexLock lock(&mutex_);
    if (!WaitFor(backoff.Next(), deadline)) return status;
  }
}

absl::StatusOr<int64_t> OptimizeStream::Impl::Settle(Time deadline) {
  const absl::MutexLock lock(&mutex_);
  Backoff backoff(options_.retry);
  while (true) {
    MNEMO_RETURN_IF_ERROR(fatal_);
    absl::Status status = stream_ ? absl::OkStatus() : Connect(deadline);
    if (status.ok()) status = SendLostSteps(last_step_ + 1, deadline);
    if (status.ok()) return last_step_;
    if (!IsTransient(status) || !WaitFor(backoff.Next(), deadline)) return status;
  }
}

absl::StatusOr<int64_t> OptimizeStream::Impl::SnapshotUntil(std::string_view pin, Time deadline) {
  v1::SnapshotSessionRequest request;
  request.set_name(session_);
  request.set_token(token_);
  request.set_pin(std::string(pin));
  while (true) {
    MNEMO_ASSIGN_OR_RETURN(const int64_t step, Settle(deadline));
    request.set_step(step);
    v1::SnapshotSessionResponse response;
    const absl::Status status =
        Call(deadline, [&](v1::OptimizerService::Stub& stub, grpc::ClientContext& context) {
          return stub.SnapshotSession(&context, request, &response);
        });
    const absl::MutexLock lock(&mutex_);
    if (status.ok()) replay_.Trim(response.step());
    if (status.ok()) return response.step();
    if (ErrorReason(status) != "NOT_AT_STEP" || steady_clock::now() >= deadline) return status;
    Drop(absl::OkStatus());  // The daemon was started anew in between.
  }
}

absl::StatusOr<int64_t> OptimizeStream::Impl::Snapshot(std::string_view pin) {
  auto step = SnapshotUntil(pin, steady_clock::now() + options_.step_timeout);
  TellEvents();
  return step;
}

absl::StatusOr<v1::Session> OptimizeStream::Impl::UpdateSession(
    const v1::SessionSpec& spec, const std::vector<std::string>& paths) {
  const Time deadline = steady_clock::now() + options_.step_timeout;
  bool kept = false;
  {
    const absl::MutexLock lock(&mutex_);
    kept = keeps_sessions_;
  }
  if (kept) {
    const absl::Status status = SnapshotUntil({}, deadline).status();
    if (absl::IsResourceExhausted(status) || absl::IsInternal(status)) {
      const absl::MutexLock lock(&mutex_);
      Tell(StreamEvent::Kind::kDurability,
           fmt::format("a change is not safe from a crash: {}", ErrorMessage(status)));
    } else if (!status.ok()) {
      TellEvents();
      return status;
    }
  }
  TellEvents();
  v1::UpdateSessionRequest request;
  request.set_name(session_);
  request.set_token(token_);
  *request.mutable_spec() = spec;
  for (const auto& path : paths) request.mutable_update_mask()->add_paths(path);
  v1::UpdateSessionResponse response;
  MNEMO_RETURN_IF_ERROR(
      Call(deadline, [&](v1::OptimizerService::Stub& stub, grpc::ClientContext& context) {
        return stub.UpdateSession(&context, request, &response);
      }));
  return std::move(*response.mutable_session());
}

}  // namespace mnemosyne
