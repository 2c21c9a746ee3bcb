#include "mnemosyne/optimize_stream.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "client/cpp/backoff.h"
#include "client/cpp/channel.h"
#include "client/cpp/frames.h"
#include "client/cpp/rpc_status.h"
#include "client/cpp/step_reader.h"
#include "client/cpp/step_writer.h"
#include "client/cpp/stream_impl.h"
#include "mnemosyne/v1/optimizer_service.grpc.pb.h"
#include "proto/codec/frame_writer.h"

namespace mnemosyne {
namespace {

using std::chrono::steady_clock;

constexpr int kProtocolRevision = 1;
constexpr char kMethod[] = "/mnemosyne.v1.OptimizerService/Optimize";

// Fields of OptimizeRequest.
constexpr uint32_t kRequestOpen = 1;
constexpr uint32_t kRequestHeartbeat = 5;

// Fields of OptimizeResponse.
constexpr uint32_t kResponseOpened = 1;
constexpr uint32_t kResponseDone = 4;
constexpr uint32_t kResponseError = 5;

// A daemon that misses this many of its heartbeats is taken for gone.
constexpr int kHeartbeatsMissedMax = 3;

// How long the end of a stream may take before it is cancelled.
constexpr std::chrono::seconds kCloseTimeout{1};

}  // namespace

OptimizeStream::Impl::Impl(std::string target, Credentials credentials, std::string session,
                           std::string token, std::vector<size_t> element_counts,
                           StreamOptions options)
    : target_(std::move(target)),
      credentials_(std::move(credentials)),
      session_(std::move(session)),
      token_(std::move(token)),
      element_counts_(std::move(element_counts)),
      options_(std::move(options)),
      stream_id_((uint64_t{std::random_device()()} << 32 | std::random_device()()) | 1),
      replay_(options_.replay_bytes, options_.replay_folder) {}

OptimizeStream::Impl::~Impl() {
  {
    const absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (heartbeats_.joinable()) heartbeats_.join();
  const absl::MutexLock lock(&mutex_);
  if (stream_) stream_->Close(steady_clock::now() + kCloseTimeout);
}

absl::Status OptimizeStream::Impl::Open() {
  if (!IsWireType(options_.gradient_encoding) || !IsWireType(options_.update_encoding)) {
    return InvalidArgument("wrong encoding: tensors travel as float32, bfloat16 or float16");
  }
  {
    const absl::MutexLock lock(&mutex_);
    const auto deadline = steady_clock::now() + options_.open_timeout;
    Backoff backoff(options_.retry);
    absl::Status opened = Connect(deadline);
    while (IsTransient(opened) && WaitFor(backoff.Next(), deadline)) opened = Connect(deadline);
    if (!opened.ok()) return opened;
  }
  heartbeats_ = std::thread([this] { HeartbeatLoop(); });
  return absl::OkStatus();
}

absl::Status OptimizeStream::Impl::Connect(Time deadline) {
  if (!channel_) channel_ = MakeChannel(target_, credentials_);
  MNEMO_RETURN_IF_ERROR(CheckNotSuperseded(deadline));
  v1::OpenStream open;
  open.set_session(session_);
  open.set_token(token_);
  open.set_protocol_revision(kProtocolRevision);
  open.set_gradient_encoding(static_cast<v1::DataType>(options_.gradient_encoding));
  open.set_update_encoding(static_cast<v1::DataType>(options_.update_encoding));
  open.set_accept_loss(options_.accept_loss);
  open.set_checksums(options_.checksums);
  open.set_stream_id(stream_id_);
  open.set_attempt(++attempts_);

  ++blind_opens_;
  stream_ = std::make_unique<RawStream>(channel_, kMethod, kInboxMax, CallMetadata(credentials_));
  const auto answer_end = std::min(deadline, steady_clock::now() + options_.open_timeout);
  grpc::ByteBuffer answer;
  absl::Status status = stream_->Write(PartMessage(kRequestOpen, open), answer_end);
  if (status.ok()) status = stream_->Read(answer, answer_end);
  if (status.ok()) {
    const ReceivedFrame frame(answer);
    v1::StreamOpened opened;
    status = frame.GetPart(kResponseOpened, opened) ? Hear(opened)
                                                    : ProtocolViolation("no answer to open");
  } else if (absl::IsDeadlineExceeded(status) && !HasReason(status)) {
    status = Unavailable("the daemon did not answer the opening of a stream in time");
    channel_.reset();
  }
  if (!status.ok()) Drop(status);
  return status;
}

absl::Status OptimizeStream::Impl::CheckNotSuperseded(Time deadline) {
  if (open_count_ == 0) return absl::OkStatus();
  v1::GetSessionRequest request;
  request.set_name(session_);
  v1::GetSessionResponse response;
  grpc::ClientContext context;
  for (const auto& [key, value] : CallMetadata(credentials_)) context.AddMetadata(key, value);
  const auto now = steady_clock::now();
  context.set_deadline(std::chrono::system_clock::now() +
                       std::min<steady_clock::duration>(deadline - now, options_.open_timeout));
  absl::Status status =
      FromGrpc(v1::OptimizerService::NewStub(channel_)->GetSession(&context, request, &response));
  if (absl::IsDeadlineExceeded(status) && !HasReason(status)) {
    status = Unavailable("the daemon did not tell in time who holds the session");
    channel_.reset();
  }
  MNEMO_RETURN_IF_ERROR(status);
  if (response.session().epoch() <= epoch_ + blind_opens_) return absl::OkStatus();
  fatal_ = WithReason(MakeError(absl::StatusCode::kAborted,
                                "somebody else has held the session since this stream broke"),
                      "SUPERSEDED");
  return fatal_;
}

absl::Status OptimizeStream::Impl::Hear(const v1::StreamOpened& opened) {
  const auto granted = [](v1::DataType type, DataType asked) {
    return type == v1::DATA_TYPE_UNSPECIFIED ? asked == DataType::kFloat32
                                             : static_cast<int>(type) == static_cast<int>(asked);
  };
  if (!granted(opened.gradient_encoding(), options_.gradient_encoding) ||
      !granted(opened.update_encoding(), options_.update_encoding)) {
    return WithReason(FailedPrecondition("the daemon does not speak the asked encodings"),
                      "UNSUPPORTED");
  }
  if (opened.cell_elements() < 1) return ProtocolViolation("a chunk grid without cells");
  grid_.emplace(element_counts_, static_cast<size_t>(opened.cell_elements()));
  daemon_step_ = opened.last_applied_step();
  keeps_sessions_ = opened.keeps_sessions();
  if (open_count_++ == 0) {
    last_step_ = daemon_step_;
  } else {
    Tell(StreamEvent::Kind::kReconnected,
         fmt::format("connected again; the daemon is at step {}", daemon_step_));
  }
  epoch_ = opened.epoch();
  blind_opens_ = 0;
  if (opened.heartbeat_seconds() > 0) heartbeat_ = std::chrono::seconds(opened.heartbeat_seconds());
  return absl::OkStatus();
}

absl::StatusOr<StepResult> OptimizeStream::Impl::Step(Tensors gradients, MutableTensors updates,
                                                      const StepOptions& options) {
  MNEMO_RETURN_IF_ERROR(CheckTensors(element_counts_, gradients, updates, options));
  absl::StatusOr<StepResult> result;
  {
    const absl::MutexLock lock(&mutex_);
    const int64_t step = options.step > 0 ? options.step : last_step_ + 1;
    const Job job = {step, gradients, updates, options,
                     steady_clock::now() + options_.step_timeout};
    stepping_ = true;
    result = TryUntilAnswered(job);
    stepping_ = false;
    if (result.ok()) {
      Keep(job, *result);
      last_step_ = std::max(last_step_, step);
    }
  }
  TellEvents();
  return result;
}

void OptimizeStream::Impl::TellEvents() {
  std::vector<StreamEvent> events;
  {
    const absl::MutexLock lock(&mutex_);
    events.swap(events_);
  }
  if (!options_.on_event) return;
  for (const StreamEvent& event : events) options_.on_event(event);
}

void OptimizeStream::Impl::Keep(const Job& job, const StepResult& result) {
  daemon_step_ = std::max(daemon_step_, job.step);
  if (result.durability_error != durability_error_) {
    durability_error_ = result.durability_error;
    Tell(StreamEvent::Kind::kDurability,
         fmt::format("the daemon's error with keeping steps is now: {}",
                     durability_error_.empty() ? "none" : durability_error_));
  }
  if (!keeps_sessions_) return;
  replay_.Trim(result.last_durable_step);
  if (job.step <= result.last_durable_step) return;
  const absl::Status kept = replay_.Add(job.step, job.gradients, job.options);
  if (!kept.ok()) {
    Tell(StreamEvent::Kind::kDurability,
         fmt::format("the gradients of step {} are not kept: {}", job.step, ErrorMessage(kept)),
         job.step, job.step);
  }
}

void OptimizeStream::Impl::Tell(StreamEvent::Kind kind, std::string message, int64_t first,
                                int64_t last) {
  if (!options_.on_event) return;
  events_.push_back({kind, std::move(message), first, last});
}

absl::StatusOr<StepResult> OptimizeStream::Impl::TryUntilAnswered(const Job& job) {
  Backoff backoff(options_.retry);
  while (true) {
    auto result = Try(job);
    if (result.ok() || !IsTransient(result.status())) return result;
    if (WaitFor(backoff.Next(), job.deadline)) continue;

    const auto message = fmt::format("step {} has no answer after {} ms: {}", job.step,
                                     options_.step_timeout.count(), ErrorMessage(result.status()));
    absl::Status error = MakeError(result.status().code(), message);
    result.status().ForEachPayload(
        [&](absl::string_view url, const absl::Cord& value) { error.SetPayload(url, value); });
    return error;
  }
}

absl::StatusOr<StepResult> OptimizeStream::Impl::Try(const Job& job) {
  MNEMO_RETURN_IF_ERROR(fatal_);
  if (!stream_) MNEMO_RETURN_IF_ERROR(Connect(job.deadline));
  MNEMO_RETURN_IF_ERROR(SendLostSteps(job.step, job.deadline));
  return TryOnce(job);
}

absl::Status OptimizeStream::Impl::SendLostSteps(int64_t before, Time deadline) {
  const int64_t first = daemon_step_ + 1;
  const int64_t last = std::min(last_step_, before - 1);
  if (first > last) return absl::OkStatus();
  if (!replay_.Has(first, last)) {
    if (!options_.accept_loss) {
      const int64_t stands = daemon_step_;
      Drop(absl::OkStatus());
      return WithReason(
          FailedPrecondition("the session stands at step {}, this client at {} and has not kept "
                             "the gradients in between; load a checkpoint into the session to go "
                             "on",
                             stands, last_step_),
          "STATE_MISMATCH");
    }
    daemon_step_ = last;
    Tell(StreamEvent::Kind::kLost,
         fmt::format("the daemon lost steps {} to {} for good", first, last), first, last);
    return absl::OkStatus();
  }
  // Their updates were applied the first time.
  std::vector<std::vector<float>> passed_over(element_counts_.size());
  std::vector<std::span<float>> targets;
  for (size_t i = 0; i < passed_over.size(); ++i) {
    passed_over[i].resize(element_counts_[i]);
    targets.emplace_back(passed_over[i]);
  }
  for (int64_t step = first; step <= last; ++step) {
    MNEMO_ASSIGN_OR_RETURN(const ReplayBuffer::Step kept, replay_.Get(step));
    const Job again = {step, kept.gradients, targets, kept.options, deadline};
    MNEMO_RETURN_IF_ERROR(TryOnce(again).status());
    daemon_step_ = step;
  }
  Tell(StreamEvent::Kind::kResent, fmt::format("the daemon had lost steps {} to {}", first, last),
       first, last);
  return absl::OkStatus();
}

absl::StatusOr<StepResult> OptimizeStream::Impl::TryOnce(const Job& job) {
  Lease lease;
  bool refused = false;
  bool is_silent = false;
  auto result = Exchange(job, lease, refused);
  if (!result.ok() && absl::IsDeadlineExceeded(result.status()) && !HasReason(result.status())) {
    result = Unavailable("the daemon is silent");
    is_silent = true;
  }
  if (!result.ok() && !refused) Drop(result.status());

  // The answer means that the daemon has the gradients, so that gRPC is about to drop them, if it
  // has not yet. After a failure a socket may hold some; closing its connection frees them.
  while (!lease.free() && stream_ && stream_->Pump(steady_clock::now())) {
  }
  // A network that loses everything does not say so: silence ends the connection, too.
  if (!stream_ && (is_silent || !lease.free())) channel_.reset();
  lease.WaitUntilFree();
  return result;
}

absl::StatusOr<StepResult> OptimizeStream::Impl::Exchange(const Job& job, Lease& lease,
                                                          bool& refused) {
  StepWriter writer(*grid_, options_.gradient_encoding, options_.checksums, job.step, job.options,
                    job.gradients, lease);
  while (!writer.done()) {
    MNEMO_RETURN_IF_ERROR(stream_->Write(writer.Next(), SilenceEnd(job.deadline)));
    if (!writer.done()) MNEMO_RETURN_IF_ERROR(EarlyError(refused));
  }
  return ReadAnswer(job, refused);
}

absl::Status OptimizeStream::Impl::EarlyError(bool& refused) {
  while (stream_->HasMessage()) {
    grpc::ByteBuffer message;
    MNEMO_RETURN_IF_ERROR(stream_->Read(message, steady_clock::now()));
    const ReceivedFrame frame(message);
    MNEMO_RETURN_IF_ERROR(frame.status());
    v1::StepError error;
    if (frame.GetPart(kResponseError, error)) {
      refused = true;
      return FromStepError(error);
    }
    if (!frame.chunks().empty()) return ProtocolViolation("an update before the step's end");
  }
  return absl::OkStatus();
}

absl::StatusOr<StepResult> OptimizeStream::Impl::ReadAnswer(const Job& job, bool& refused) {
  StepReader reader(*grid_, options_.update_encoding, job.updates);
  while (true) {
    grpc::ByteBuffer message;
    MNEMO_RETURN_IF_ERROR(stream_->Read(message, SilenceEnd(job.deadline)));
    const ReceivedFrame frame(message);
    MNEMO_RETURN_IF_ERROR(frame.status());
    for (const auto& chunk : frame.chunks()) MNEMO_RETURN_IF_ERROR(reader.Take(chunk));
    if (v1::StepDone done; frame.GetPart(kResponseDone, done)) {
      if (done.step() != job.step) return ProtocolViolation("an answer to another step");
      return reader.Finish(done, job.options.absent_parameters);
    }
    if (v1::StepError error; frame.GetPart(kResponseError, error)) {
      refused = true;
      return FromStepError(error);
    }
  }
}

void OptimizeStream::Impl::Drop(const absl::Status& why) {
  if (ErrorReason(why) == "SUPERSEDED") fatal_ = why;
  stream_.reset();
}

OptimizeStream::Impl::Time OptimizeStream::Impl::SilenceEnd(Time deadline) const {
  return std::min(deadline, steady_clock::now() + heartbeat_ * kHeartbeatsMissedMax);
}

bool OptimizeStream::Impl::WaitFor(std::chrono::milliseconds wait, Time deadline) {
  if (steady_clock::now() + wait >= deadline) return false;
  return !mutex_.AwaitWithTimeout(absl::Condition(&stopping_), absl::FromChrono(wait));
}

void OptimizeStream::Impl::HeartbeatLoop() {
  const absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&stopping_), absl::FromChrono(heartbeat_))) {
    if (!stepping_ && stream_) KeepAlive();
  }
}

void OptimizeStream::Impl::KeepAlive() {
  const auto deadline = steady_clock::now() + kCloseTimeout;
  absl::Status status;
  grpc::ByteBuffer message;
  while (status.ok() && stream_->HasMessage()) status = stream_->Read(message, deadline);
  if (status.ok() && stream_->ended()) status = stream_->EndStatus();
  if (status.ok()) {
    v1::Heartbeat heartbeat;
    heartbeat.set_last_step(last_step_);
    status = stream_->Write(PartMessage(kRequestHeartbeat, heartbeat), deadline);
  }
  if (!status.ok()) Drop(status);
}

absl::StatusOr<StepResult> OptimizeStream::Impl::StepAndApply(Tensors gradients,
                                                              MutableTensors parameters,
                                                              const StepOptions& options) {
  MNEMO_RETURN_IF_ERROR(CheckTensors(element_counts_, gradients, parameters, options));
  updates_.resize(element_counts_.size());
  std::vector<std::span<float>> targets;
  for (size_t i = 0; i < updates_.size(); ++i) {
    updates_[i].resize(element_counts_[i]);
    targets.emplace_back(updates_[i]);
  }
  MNEMO_ASSIGN_OR_RETURN(StepResult result, Step(gradients, targets, options));

  const std::vector<bool> absent = AbsentParameters(parameters.size(), options);
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (absent[i]) continue;
    const std::span<float> parameter = parameters[i];
    const auto keep = static_cast<float>(1 - result.decays[i]);
    for (size_t j = 0; j < parameter.size(); ++j) {
      parameter[j] = keep * parameter[j] + updates_[i][j];
    }
  }
  return result;
}

int64_t OptimizeStream::Impl::last_step() const {
  const absl::MutexLock lock(&mutex_);
  return last_step_;
}

int64_t OptimizeStream::Impl::epoch() const {
  const absl::MutexLock lock(&mutex_);
  return epoch_;
}

int64_t OptimizeStream::Impl::reopen_count() const {
  const absl::MutexLock lock(&mutex_);
  return open_count_ - 1;
}

OptimizeStream::OptimizeStream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
OptimizeStream::~OptimizeStream() = default;

absl::StatusOr<StepResult> OptimizeStream::Step(Tensors gradients, MutableTensors updates,
                                                const StepOptions& options) {
  return impl_->Step(gradients, updates, options);
}

absl::StatusOr<StepResult> OptimizeStream::StepAndApply(Tensors gradients,
                                                        MutableTensors parameters,
                                                        const StepOptions& options) {
  return impl_->StepAndApply(gradients, parameters, options);
}

absl::StatusOr<int64_t> OptimizeStream::Snapshot(std::string_view pin) {
  return impl_->Snapshot(pin);
}

absl::StatusOr<v1::Session> OptimizeStream::UpdateSession(const v1::SessionSpec& spec,
                                                          const std::vector<std::string>& paths) {
  return impl_->UpdateSession(spec, paths);
}

int64_t OptimizeStream::last_step() const { return impl_->last_step(); }
int64_t OptimizeStream::epoch() const { return impl_->epoch(); }
int64_t OptimizeStream::reopen_count() const { return impl_->reopen_count(); }

}  // namespace mnemosyne
