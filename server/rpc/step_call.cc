#include "server/rpc/step_call.h"

#include <memory>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/rpc/session_codec.h"
#include "server/session/pending_step.h"

namespace mnemosyne::server {
namespace {

// A call on its way; held by whatever it waits for, and freed with the last of them.
class StepCall : public std::enable_shared_from_this<StepCall> {
 public:
  StepCall(Caller caller, SessionStore& store, int64_t message_bytes_max,
           const v1::StepRequest& request, v1::StepResponse& response, UnaryCall& call)
      : caller_(std::move(caller)),
        store_(store),
        message_bytes_max_(message_bytes_max),
        request_(request),
        response_(response),
        call_(call) {}

  void Start() {
    if (const absl::Status status = TryStart(); !status.ok()) Finish(status);
  }

 private:
  absl::Status TryStart();
  absl::Status TryStep(std::unique_ptr<Turnstile::Turn> turn);
  void Answer(PendingStep& step);
  void Finish(const absl::Status& status) { call_.End(status); }

  const Caller caller_;
  SessionStore& store_;
  const int64_t message_bytes_max_;
  const v1::StepRequest& request_;
  v1::StepResponse& response_;
  UnaryCall& call_;

  TenantQuotas::Share share_;
  std::shared_ptr<Session> session_;
  int64_t epoch_ = 0;
  DataType gradient_encoding_ = DataType::kFloat32;
  DataType update_encoding_ = DataType::kFloat32;
};

absl::Status StepCall::TryStart() {
  MNEMO_ASSIGN_OR_RETURN(session_,
                         store_.FindWithToken(caller_, request_.session(), request_.token()));
  const auto request_bytes = static_cast<int64_t>(request_.ByteSizeLong());
  MNEMO_ASSIGN_OR_RETURN(share_,
                         store_.quotas().Take(caller_.tenant, {.inflight_bytes = request_bytes}));
  MNEMO_RETURN_IF_ERROR(store_.quotas().CountStep(caller_.tenant));
  MNEMO_ASSIGN_OR_RETURN(gradient_encoding_,
                         WireEncoding(request_.gradient_encoding(), "gradient_encoding"));
  MNEMO_ASSIGN_OR_RETURN(update_encoding_,
                         WireEncoding(request_.update_encoding(), "update_encoding"));
  const auto answer_bytes =
      static_cast<int64_t>(session_->layout().element_count() * ElementSize(update_encoding_));
  if (answer_bytes > message_bytes_max_) {
    return WithReason(InvalidArgument("the updates have {} bytes, a message has at most {}; use "
                                      "the Optimize stream",
                                      answer_bytes, message_bytes_max_),
                      "UNSUPPORTED");
  }
  if (request_.epoch() != 0) {
    epoch_ = request_.epoch();
  } else {
    MNEMO_ASSIGN_OR_RETURN(epoch_, session_->Take(nullptr));
    session_->Release(epoch_);
  }
  return store_.AskTurn(
      session_, [self = shared_from_this()](absl::StatusOr<std::unique_ptr<Turnstile::Turn>> turn) {
        const absl::Status status =
            turn.ok() ? self->TryStep(*std::move(turn)) : absl::Status(turn.status());
        if (!status.ok()) self->Finish(status);
      });
}

absl::Status StepCall::TryStep(std::unique_ptr<Turnstile::Turn> turn) {
  FAIL_POINT("unary.step");
  MNEMO_RETURN_IF_ERROR(session_->CheckHolder(epoch_));
  MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<PendingStep> step,
                         PendingStep::Begin(session_, std::move(turn), FromProto(request_.begin()),
                                            gradient_encoding_, /*accepts_loss=*/false));
  for (const v1::TensorChunk& chunk : request_.chunks()) {
    const codec::Slice payload = std::as_bytes(std::span(chunk.payload()));
    codec::ChunkView view{.parameter = chunk.parameter(),
                          .cell = chunk.cell(),
                          .crc32c = std::nullopt,
                          .payload = codec::SliceCursor(std::span(&payload, 1))};
    if (chunk.has_crc32c()) view.crc32c = chunk.crc32c();
    MNEMO_RETURN_IF_ERROR(step->Place(view));
  }
  MNEMO_RETURN_IF_ERROR(step->CheckComplete());
  return session_->executor().SubmitStep(
      std::move(step),
      [self = shared_from_this()](std::unique_ptr<PendingStep> done, const absl::Status& status) {
        if (status.ok()) self->Answer(*done);
        done.reset();  // The turn ends before the client can send the next step.
        self->Finish(status);
      });
}

void StepCall::Answer(PendingStep& step) {
  FAIL_POINT("unary.answer");
  response_.set_epoch(epoch_);
  *response_.mutable_done() = ToProto(step.outcome(), session_->progress());
  while (!step.exhausted()) {
    v1::OptimizeResponse part;
    part.ParseFromString(step.NextUpdates(update_encoding_, 1 << 20, /*checksums=*/false));
    response_.mutable_chunks()->MergeFrom(part.chunks());
  }
}

}  // namespace

void RunStepCall(const Caller& caller, SessionStore& store, int64_t message_bytes_max,
                 const v1::StepRequest& request, v1::StepResponse& response, UnaryCall& call) {
  std::make_shared<StepCall>(caller, store, message_bytes_max, request, response, call)->Start();
}

}  // namespace mnemosyne::server
