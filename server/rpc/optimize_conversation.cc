#include "server/rpc/optimize_conversation.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "proto/codec/frame_writer.h"
#include "server/rpc/session_codec.h"
#include "server/rpc/status_codec.h"
#include "server/session/shutting_down.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

using Request = v1::OptimizeRequest;
using Response = v1::OptimizeResponse;

constexpr std::chrono::seconds kRefusalLogInterval(1);

absl::Status Violation(std::string_view what) {
  return WithReason(InvalidArgument("{}", what), "PROTOCOL_VIOLATION");
}

absl::Status Silent(std::string_view what, int32_t seconds) {
  return WithReason(MakeError(absl::StatusCode::kDeadlineExceeded,
                              fmt::format("{} for {} seconds", what, seconds)),
                    "STEP_TIMEOUT");
}

template <typename Message>
std::string Part(int field, const Message& message) {
  std::string out;
  codec::AppendPart(static_cast<uint32_t>(field), message.SerializeAsString(), out);
  return out;
}

template <typename Message>
absl::Status ParsePart(const codec::FramePart& part, std::optional<Message>& message) {
  if (message.emplace().ParseFromString(part.bytes)) return absl::OkStatus();
  return Violation(fmt::format("part {} of a message cannot be parsed", part.field));
}

}  // namespace

OptimizeConversation::OptimizeConversation(SessionStore& store, StreamOwner owner,
                                           const StreamLimits& limits, const Clock& clock)
    : store_(store),
      owner_(std::move(owner)),
      limits_(limits),
      clock_(clock),
      last_progress_(clock.MonotonicNow()),
      last_write_(last_progress_) {}

void OptimizeConversation::Post(std::function<void()> event) {
  strand_.Post([self = shared_from_this(), event = std::move(event)] { event(); });
}

void OptimizeConversation::Start(StreamSink* sink) {
  Post([this, sink] {
    sink_ = sink;
    Proceed();
  });
}

void OptimizeConversation::OnMessage(InboundMessage message) {
  Post([this, message = std::move(message)] {
    reading_ = false;
    if (state_ == State::kFinished) return;
    auto parsed = Parse(message);
    if (!parsed.ok()) return Finish(parsed.status());
    current_ = *std::move(parsed);
    if (current_->begin || current_->end || !current_->frame.chunks.empty()) {
      last_progress_ = clock_.MonotonicNow();
    }
    Proceed();
  });
}

void OptimizeConversation::OnReadsDone() {
  Post([this] {
    reading_ = false;
    reads_done_ = true;
    Proceed();
  });
}

void OptimizeConversation::OnWritten(bool ok) {
  Post([this, ok] {
    writing_ = false;
    last_write_ = clock_.MonotonicNow();
    if (goodbye_) {
      if (sink_ != nullptr) sink_->Finish(*std::exchange(goodbye_, std::nullopt));
    } else if (!ok) {
      Finish(absl::CancelledError("the client is gone"));
    } else {
      WriteNext();
    }
  });
}

void OptimizeConversation::OnCancelled() {
  Post([this] { Finish(absl::CancelledError("the client is gone")); });
}

void OptimizeConversation::OnTick() {
  Post([this] { Tick(); });
}

void OptimizeConversation::OnDrain() {
  Post([this] {
    draining_ = true;
    if (state_ != State::kComputing && state_ != State::kSending)
      Finish(ShuttingDown("open the stream again a little later"));
  });
}

void OptimizeConversation::OnClosed(std::function<void()> closed) {
  Post([this, closed = std::move(closed)] {
    writing_ = false;
    Finish(absl::CancelledError("the stream is closed"));
    sink_ = nullptr;
    closed();
  });
}

absl::StatusOr<OptimizeConversation::Current> OptimizeConversation::Parse(InboundMessage message) {
  Current current;
  current.message = std::move(message);
  MNEMO_ASSIGN_OR_RETURN(current.frame, codec::ReadFrame(current.message.slices));
  for (const codec::FramePart& part : current.frame.parts) {
    if (part.field == Request::kOpenFieldNumber) {
      MNEMO_RETURN_IF_ERROR(ParsePart(part, current.open));
    } else if (part.field == Request::kBeginFieldNumber) {
      MNEMO_RETURN_IF_ERROR(ParsePart(part, current.begin));
    } else if (part.field == Request::kEndFieldNumber) {
      MNEMO_RETURN_IF_ERROR(ParsePart(part, current.end));
    }
  }
  return current;
}

void OptimizeConversation::Proceed() {
  if (state_ == State::kFinished) return;
  if (current_) {
    if (const absl::Status status = TakeMessage(); !status.ok()) return Finish(status);
  }
  if (state_ == State::kFinished || current_) return;
  if (!reads_done_) {
    if (!std::exchange(reading_, true)) sink_->Read();
    return;
  }
  // The client has closed its side: what is under way goes on, anything else is over.
  if (state_ == State::kIdle) return Finish(absl::OkStatus());
  if (state_ == State::kOpening) return Finish(Violation("the stream ended before it was opened"));
  if (state_ == State::kReceiving) {
    Finish(Violation("the stream ended in the middle of a step, which was not applied"));
  }
}

// Takes what the state allows out of the current message, and drops it once it is used up.
absl::Status OptimizeConversation::TakeMessage() {
  if (state_ == State::kOpening) {
    if (!current_->open) return Violation("the first message of a stream must hold `open`");
    const v1::OpenStream open = *std::exchange(current_->open, std::nullopt);
    return Open(open);
  }
  if (state_ != State::kIdle && state_ != State::kReceiving) return absl::OkStatus();

  if (current_->open) return Violation("`open` came twice on one stream");
  if (current_->begin) {
    const v1::StepBegin begin = *std::exchange(current_->begin, std::nullopt);
    return Begin(begin);
  }
  if (!discarding_ && state_ == State::kIdle &&
      (!current_->frame.chunks.empty() || current_->end)) {
    return Violation("chunks or `end` came without `begin`");
  }
  for (const codec::ChunkView& chunk : current_->frame.chunks) {
    FAIL_POINT("stream.chunk");
    if (discarding_) break;
    if (const absl::Status status = step_->Place(chunk); !status.ok()) RefuseStep(status);
  }
  const std::optional<v1::StepEnd> end = current_->end;
  current_.reset();
  return end && !discarding_ ? End(*end) : absl::OkStatus();
}

absl::Status OptimizeConversation::Open(const v1::OpenStream& open) {
  FAIL_POINT("stream.open");
  const absl::Status status = TryOpen(open);
  if (owner_.record) owner_.record("Optimize", open.session(), status);
  return status;
}

absl::Status OptimizeConversation::TryOpen(const v1::OpenStream& open) {
  MNEMO_ASSIGN_OR_RETURN(std::shared_ptr<Session> session,
                         store_.FindWithToken(owner_.caller, open.session(), open.token()));
  if (open.rank() != 0 || open.lane() != 0) {
    return WithReason(InvalidArgument("rank {} and lane {} were asked for; a session of one worker "
                                      "has rank 0 and lane 0",
                                      open.rank(), open.lane()),
                      "UNSUPPORTED");
  }
  MNEMO_ASSIGN_OR_RETURN(gradient_encoding_,
                         WireEncoding(open.gradient_encoding(), "gradient_encoding"));
  MNEMO_ASSIGN_OR_RETURN(update_encoding_, WireEncoding(open.update_encoding(), "update_encoding"));
  checksums_ = open.checksums();
  accepts_loss_ = open.accept_loss();
  revision_ = std::clamp(open.protocol_revision(), 1, kProtocolRevision);
  MNEMO_ASSIGN_OR_RETURN(epoch_, session->Take(
                                     [weak = weak_from_this()](const absl::Status& status) {
                                       if (const auto self = weak.lock())
                                         self->Post([&raw = *self, status] { raw.Finish(status); });
                                     },
                                     {.stream = open.stream_id(), .attempt = open.attempt()}));
  session_ = std::move(session);
  state_ = State::kTaking;
  return AskTurn(&OptimizeConversation::TurnToOpen);
}

absl::Status OptimizeConversation::AskTurn(
    void (OptimizeConversation::*ready)(std::unique_ptr<Turnstile::Turn>)) {
  return store_.AskTurn(session_, [weak = weak_from_this(),
                                   ready](absl::StatusOr<std::unique_ptr<Turnstile::Turn>> turn) {
    const auto self = weak.lock();
    if (self == nullptr) return;
    if (!turn.ok()) {
      self->Post([&raw = *self, status = turn.status()] { raw.Finish(status); });
      return;
    }
    // An event must be copyable, a turn is not.
    auto shared = std::make_shared<std::unique_ptr<Turnstile::Turn>>(*std::move(turn));
    self->Post([&raw = *self, ready, shared] {
      if (raw.state_ != State::kFinished) (raw.*ready)(std::move(*shared));
    });
  });
}

void OptimizeConversation::TurnToOpen(std::unique_ptr<Turnstile::Turn> turn) {
  v1::StreamOpened opened;
  opened.set_epoch(epoch_);
  opened.set_last_applied_step(session_->state().last_step);
  opened.set_keeps_sessions(store_.keeper() != nullptr);
  opened.set_last_durable_step(session_->progress().last_durable_step);
  turn.reset();
  FAIL_POINT("stream.opened");
  opened.set_gradient_encoding(static_cast<v1::DataType>(gradient_encoding_));
  opened.set_update_encoding(static_cast<v1::DataType>(update_encoding_));
  opened.set_cell_elements(static_cast<int64_t>(session_->grid().cell_elements()));
  opened.set_protocol_revision(revision_);
  opened.set_message_bytes_max(limits_.message_bytes_max);
  opened.set_heartbeat_seconds(limits_.heartbeat_seconds);
  opened.set_step_timeout_seconds(limits_.step_timeout_seconds);
  state_ = State::kIdle;
  Log(spdlog::level::info, "stream opened",
      {{"session", session_->name()},
       {"epoch", epoch_},
       {"last_step", opened.last_applied_step()},
       {"gradients", DataTypeName(gradient_encoding_)},
       {"updates", DataTypeName(update_encoding_)}});
  Send(Part(Response::kOpenedFieldNumber, opened));
  Proceed();
}

absl::Status OptimizeConversation::Begin(const v1::StepBegin& begin) {
  FAIL_POINT("stream.begin");
  step_.reset();  // A step that is begun anew leaves no trace of its first beginning.
  discarding_ = false;
  step_number_ = begin.step();
  if (const absl::Status status = store_.quotas().CountStep(owner_.caller.tenant); !status.ok()) {
    RefuseStep(status);
    return TakeMessage();  // What else the message holds is passed over.
  }
  asked_ = FromProto(begin);
  state_ = State::kWaiting;
  return AskTurn(&OptimizeConversation::TurnToStep);
}

void OptimizeConversation::TurnToStep(std::unique_ptr<Turnstile::Turn> turn) {
  if (const absl::Status status = session_->CheckHolder(epoch_); !status.ok()) {
    return Finish(status);
  }
  auto begun = PendingStep::Begin(session_, std::move(turn), *std::exchange(asked_, std::nullopt),
                                  gradient_encoding_, accepts_loss_);
  if (begun.ok()) {
    accepts_loss_ = false;
    step_ = *std::move(begun);
    state_ = State::kReceiving;
  } else {
    RefuseStep(begun.status());
  }
  Proceed();
}

absl::Status OptimizeConversation::End(const v1::StepEnd& end) {
  FAIL_POINT("stream.end");
  absl::Status status = step_->CheckComplete();
  if (end.step() != step_number_) {
    status = Violation(
        fmt::format("`end` names step {}, but `begin` named step {}", end.step(), step_number_));
  }
  if (status.ok()) {
    if (end.has_loss()) step_->SetLoss(end.loss());
    state_ = State::kComputing;
    StepExecutor& executor = step_->session().executor();
    status = executor.SubmitStep(
        std::move(step_),
        [weak = weak_from_this()](std::unique_ptr<PendingStep> step, const absl::Status& result) {
          const auto self = weak.lock();
          if (self == nullptr) return;
          auto shared = std::make_shared<std::unique_ptr<PendingStep>>(std::move(step));
          self->Post([&raw = *self, shared, result] { raw.StepRan(std::move(*shared), result); });
        });
  }
  if (!status.ok()) RefuseStep(status);
  return absl::OkStatus();
}

void OptimizeConversation::StepRan(std::unique_ptr<PendingStep> step, const absl::Status& status) {
  if (state_ != State::kComputing) return;
  FAIL_POINT("stream.ran");
  if (status.ok()) {
    step_ = std::move(step);
    state_ = State::kSending;
    WriteNext();
    return;
  }
  step.reset();
  RefuseStep(status);
  if (draining_) return Finish(ShuttingDown("open the stream again a little later"));
  Proceed();
}

void OptimizeConversation::RefuseStep(const absl::Status& status) {
  step_.reset();
  discarding_ = true;
  state_ = State::kIdle;
  LogRefusal(status);
  Send(Part(Response::kErrorFieldNumber, ToStepError(step_number_, status)));
}

// A client that is refused again and again must not fill the log.
void OptimizeConversation::LogRefusal(const absl::Status& status) {
  const Clock::Monotonic now = clock_.MonotonicNow();
  if (refusal_logged_ && now - *refusal_logged_ < kRefusalLogInterval) {
    ++refusals_unlogged_;
    return;
  }
  refusal_logged_ = now;
  Log(spdlog::level::warn, "step refused",
      {{"session", session_->name()},
       {"step", step_number_},
       {"reason", ErrorReason(status)},
       {"detail", ErrorMessage(status)},
       {"suppressed", std::exchange(refusals_unlogged_, 0)}});
}

void OptimizeConversation::Finish(const absl::Status& status) {
  if (state_ == State::kFinished) return;
  FAIL_POINT("stream.finish");
  state_ = State::kFinished;
  finish_time_ = clock_.MonotonicNow();
  current_.reset();
  asked_.reset();
  step_.reset();
  if (session_ != nullptr) {
    session_->Release(epoch_);
    Log(spdlog::level::info, "stream ended",
        {{"session", session_->name()},
         {"epoch", epoch_},
         {"last_step", session_->progress().last_step},
         {"reason", status.ok() ? std::string("OK") : ErrorReason(status)}});
  }
  if (sink_ == nullptr) return;
  if (writing_) {
    goodbye_ = status;
  } else {
    sink_->Finish(status);
  }
}

void OptimizeConversation::Tick() {
  if (sink_ == nullptr) return;
  const Clock::Monotonic now = clock_.MonotonicNow();
  if (state_ == State::kFinished) {
    // A client that has its status and leaves its side open must not hold the daemon's end up.
    const int32_t wait = goodbye_ ? limits_.goodbye_seconds : limits_.linger_seconds;
    if (Seconds(now - finish_time_) >= wait) sink_->Cancel();
    return;
  }
  const int32_t patience = limits_.step_timeout_seconds;
  const bool awaits_client = state_ == State::kOpening || state_ == State::kReceiving;
  if (awaits_client && Seconds(now - last_progress_) >= patience) {
    return Finish(Silent(state_ == State::kOpening ? "the client did not open the stream"
                                                   : "the client sent nothing of its step",
                         patience));
  }
  if (state_ == State::kSending && Seconds(now - last_write_) >= patience) {
    return Finish(Silent("the client did not read the updates", patience));
  }
  if (!owner_.caller.IsValid(clock_.Now())) {
    return Finish(WithReason(MakeError(absl::StatusCode::kUnauthenticated,
                                       "what this stream was opened with has been revoked"),
                             "WRONG_CREDENTIALS"));
  }
  if (state_ == State::kIdle && Seconds(now - last_progress_) >= limits_.idle_seconds) {
    return Finish(WithReason(
        Unavailable("no step came for {} seconds; open the stream again for the next one",
                    limits_.idle_seconds),
        "STREAM_IDLE"));
  }
  const bool opened = state_ != State::kOpening && state_ != State::kTaking;
  if (opened && !writing_ && Seconds(now - last_write_) >= limits_.heartbeat_seconds) {
    v1::Heartbeat heartbeat;
    heartbeat.set_last_step(session_->progress().last_step);
    Send(Part(Response::kHeartbeatFieldNumber, heartbeat));
  }
}

void OptimizeConversation::Send(std::string message) {
  outbox_.push_back(std::move(message));
  WriteNext();
}

void OptimizeConversation::WriteNext() {
  if (writing_ || state_ == State::kFinished) return;
  std::string message;
  if (!outbox_.empty()) {
    message = std::move(outbox_.front());
    outbox_.pop_front();
  } else if (state_ == State::kSending) {
    message = step_->NextUpdates(update_encoding_, limits_.payload_bytes, checksums_);
    if (step_->exhausted()) {
      const v1::StepDone done = ToProto(step_->outcome(), session_->progress());
      codec::AppendPart(Response::kDoneFieldNumber, done.SerializeAsString(), message);
      FAIL_POINT("stream.done");
      step_.reset();
      state_ = State::kIdle;
      last_progress_ = clock_.MonotonicNow();
    }
  } else {
    return;
  }
  FAIL_POINT("stream.write");
  writing_ = true;
  last_write_ = clock_.MonotonicNow();
  sink_->Write(std::move(message));
  // As an event of its own: the caller may be in the middle of a message.
  if (state_ == State::kIdle)
    Post([this] {
      draining_ ? Finish(ShuttingDown("open the stream again a little later")) : Proceed();
    });
}

}  // namespace mnemosyne::server
