#include "server/rpc/optimize_conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <vector>

#include "base/error.h"
#include "tests/server/testing/fake_sink.h"
#include "tests/server/testing/test_bench.h"

namespace mnemosyne::server {
namespace {

using ::testing::HasSubstr;

constexpr size_t kElements[] = {6, 3};  // Of SmallSpec's parameters.

std::string Floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::vector<float> ToFloats(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

class OptimizeConversationTest : public ::testing::Test {
 protected:
  std::unique_ptr<FakeSink> Connect() {
    return std::make_unique<FakeSink>(
        std::make_shared<OptimizeConversation>(bench_.store, StreamOwner{.caller = caller_},
                                               limits_, bench_.clock),
        [](const std::string& what) { ADD_FAILURE() << what; });
  }

  static v1::OptimizeRequest OpenRequest(const Session& session) {
    v1::OptimizeRequest request;
    request.mutable_open()->set_session(session.name());
    request.mutable_open()->set_token(session.token());
    request.mutable_open()->set_protocol_revision(1);
    return request;
  }

  // An opened stream on `session`.
  std::unique_ptr<FakeSink> Open(const Session& session) {
    auto sink = Connect();
    sink->Send(OpenRequest(session));
    EXPECT_TRUE(sink->Receive().has_opened());
    return sink;
  }

  // A whole step of SmallSpec in one message, all gradients `value`.
  static v1::OptimizeRequest StepRequest(int64_t step, float value) {
    v1::OptimizeRequest request;
    request.mutable_begin()->set_step(step);
    for (int parameter = 0; parameter < 2; ++parameter) {
      v1::TensorChunk& chunk = *request.add_chunks();
      chunk.set_parameter(parameter);
      chunk.set_payload(Floats(std::vector<float>(kElements[parameter], value)));
    }
    request.mutable_end()->set_step(step);
    return request;
  }

  TestBench bench_;
  StreamLimits limits_;
  Caller caller_;
};

TEST_F(OptimizeConversationTest, AnswersOpenWithWhereToResume) {
  const auto session = bench_.Create();
  auto sink = Connect();
  sink->Send(OpenRequest(*session));

  const v1::StreamOpened opened = sink->Receive().opened();

  EXPECT_EQ(opened.epoch(), 1);
  EXPECT_EQ(opened.last_applied_step(), 0);
  EXPECT_EQ(opened.protocol_revision(), 1);
  EXPECT_EQ(opened.gradient_encoding(), v1::DATA_TYPE_FLOAT32);
  EXPECT_EQ(opened.cell_elements(), 1 << 18);
}

TEST_F(OptimizeConversationTest, RefusesAStreamThatDoesNotStartWithOpen) {
  auto sink = Connect();
  sink->Send(StepRequest(1, 1));
  EXPECT_EQ(ErrorReason(sink->AwaitFinish()), "PROTOCOL_VIOLATION");
}

TEST_F(OptimizeConversationTest, RefusesAWrongTokenAndAnUnknownSession) {
  const auto session = bench_.Create();
  v1::OptimizeRequest wrong_token = OpenRequest(*session);
  wrong_token.mutable_open()->set_token("guess");
  auto first = Connect();
  first->Send(wrong_token);
  EXPECT_EQ(ErrorReason(first->AwaitFinish()), "WRONG_TOKEN");

  v1::OptimizeRequest unknown = OpenRequest(*session);
  unknown.mutable_open()->set_session("sessions/none");
  auto second = Connect();
  second->Send(unknown);
  EXPECT_EQ(ErrorReason(second->AwaitFinish()), "SESSION_NOT_FOUND");
}

TEST_F(OptimizeConversationTest, AnswersAStepWithUpdatesAndDone) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  sink->Send(StepRequest(1, 0.5F));

  const v1::OptimizeResponse response = sink->Receive();

  ASSERT_EQ(response.chunks_size(), 2);
  EXPECT_EQ(ToFloats(response.chunks(0).payload()).size(), kElements[0]);
  EXPECT_LT(ToFloats(response.chunks(0).payload())[0], 0);  // Against the gradient.
  EXPECT_GT(response.chunks(0).decay(), 0);                 // AdamW's decoupled weight decay.
  EXPECT_EQ(response.done().step(), 1);
  EXPECT_FALSE(response.done().replayed());
  EXPECT_NEAR(response.done().gradient_norm(), 0.5 * std::sqrt(9.0), 1e-6);
  EXPECT_EQ(session->progress().last_step, 1);
}

TEST_F(OptimizeConversationTest, TakesAStepInSeveralMessagesWithCellsInAnyOrder) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  const v1::OptimizeRequest whole = StepRequest(1, 0.5F);
  v1::OptimizeRequest begin;
  *begin.mutable_begin() = whole.begin();
  sink->Send(begin);
  for (const int parameter : {1, 0}) {
    v1::OptimizeRequest chunk;
    *chunk.add_chunks() = whole.chunks(parameter);
    sink->Send(chunk);
  }
  v1::OptimizeRequest end;
  *end.mutable_end() = whole.end();
  sink->Send(end);
  EXPECT_EQ(sink->Receive().done().step(), 1);
}

TEST_F(OptimizeConversationTest, AnswersAResentStepWithTheSameBitsWithoutApplyingItAgain) {
  for (const char* optimizer : {"sgd", "adam", "adamw", "lion"}) {
    const auto session = bench_.Create(SmallSpec(optimizer));
    auto sink = Open(*session);
    sink->Send(StepRequest(1, 0.25F));
    sink->Receive();
    sink->Send(StepRequest(2, 0.5F));
    const v1::OptimizeResponse first = sink->Receive();

    // A new stream, as after a lost answer.
    auto again = Open(*session);
    again->Send(StepRequest(2, 0.5F));
    const v1::OptimizeResponse second = again->Receive();

    ASSERT_EQ(second.chunks_size(), first.chunks_size()) << optimizer;
    for (int i = 0; i < first.chunks_size(); ++i) {
      EXPECT_EQ(second.chunks(i).SerializeAsString(), first.chunks(i).SerializeAsString());
    }
    EXPECT_TRUE(second.done().replayed());
    EXPECT_EQ(second.done().update_norm(), first.done().update_norm());
    EXPECT_EQ(session->progress().last_step, 2);
  }
}

TEST_F(OptimizeConversationTest, RefusesAResendWithAnotherGradient) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  sink->Send(StepRequest(1, 0.5F));
  sink->Receive();
  sink->Send(StepRequest(1, 0.75F));

  const v1::StepError error = sink->Receive().error();

  EXPECT_EQ(error.reason(), "RESEND_DIFFERS");
  EXPECT_EQ(error.metadata().at("parameter"), "weight");
  sink->Send(StepRequest(2, 0.75F));
  EXPECT_EQ(sink->Receive().done().step(), 2);
}

TEST_F(OptimizeConversationTest, RefusesGapsAndOldStepsAndGoesOn) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  sink->Send(StepRequest(3, 1));
  const v1::StepError gap = sink->Receive().error();
  EXPECT_EQ(gap.reason(), "STEP_GAP");
  EXPECT_EQ(gap.metadata().at("expected_step"), "1");
  for (int64_t step = 1; step <= 2; ++step) {
    sink->Send(StepRequest(step, 1));
    EXPECT_EQ(sink->Receive().done().step(), step);
  }
  sink->Send(StepRequest(1, 1));
  const v1::StepError old = sink->Receive().error();
  EXPECT_EQ(old.reason(), "STEP_TOO_OLD");
  EXPECT_EQ(old.metadata().at("last_step"), "2");
  sink->Send(StepRequest(0, 1));
  EXPECT_EQ(sink->Receive().error().reason(), "INVALID_STEP");
}

TEST_F(OptimizeConversationTest, AcceptLossLetsOneGapPass) {
  const auto session = bench_.Create();
  auto sink = Connect();
  v1::OptimizeRequest open = OpenRequest(*session);
  open.mutable_open()->set_accept_loss(true);
  sink->Send(open);
  sink->Receive();
  sink->Send(StepRequest(41, 1));
  EXPECT_EQ(sink->Receive().done().step(), 41);
  sink->Send(StepRequest(50, 1));
  EXPECT_EQ(sink->Receive().error().reason(), "STEP_GAP");
}

// What can be wrong with a step's chunks, and the reason that names it.
struct BadStep {
  const char* name;
  const char* reason;
  void (*spoil)(v1::OptimizeRequest&);
};
void PrintTo(const BadStep& step, std::ostream* out) { *out << step.name; }

class BadStepTest : public OptimizeConversationTest,
                    public ::testing::WithParamInterface<BadStep> {};

TEST_P(BadStepTest, IsRefusedLeavesNoTraceAndTheStreamGoesOn) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  v1::OptimizeRequest request = StepRequest(1, 0.5F);
  GetParam().spoil(request);
  sink->Send(request);

  const v1::OptimizeResponse refused = sink->Receive();

  EXPECT_EQ(refused.error().reason(), GetParam().reason);
  EXPECT_EQ(refused.error().step(), 1);
  EXPECT_THAT(refused.error().message(), ::testing::Not(::testing::IsEmpty()));
  EXPECT_EQ(refused.chunks_size(), 0);
  EXPECT_EQ(session->progress().last_step, 0);

  // The same bits as if nothing had happened.
  sink->Send(StepRequest(1, 0.5F));
  const v1::OptimizeResponse after = sink->Receive();
  const auto fresh = bench_.Create();
  auto other = Open(*fresh);
  other->Send(StepRequest(1, 0.5F));
  const v1::OptimizeResponse expected = other->Receive();
  ASSERT_EQ(after.chunks_size(), expected.chunks_size());
  for (int i = 0; i < expected.chunks_size(); ++i) {
    EXPECT_EQ(after.chunks(i).SerializeAsString(), expected.chunks(i).SerializeAsString());
  }
}

const float kNan = std::numeric_limits<float>::quiet_NaN();

INSTANTIATE_TEST_SUITE_P(
    Reasons, BadStepTest,
    ::testing::Values(
        BadStep{"UnknownParameter", "UNKNOWN_PARAMETER",
                [](v1::OptimizeRequest& r) { r.mutable_chunks(1)->set_parameter(2); }},
        BadStep{"NegativeParameter", "UNKNOWN_PARAMETER",
                [](v1::OptimizeRequest& r) { r.mutable_chunks(1)->set_parameter(-1); }},
        BadStep{"CellOutOfRange", "CELL_OUT_OF_RANGE",
                [](v1::OptimizeRequest& r) { r.mutable_chunks(0)->set_cell(1); }},
        BadStep{"NegativeCell", "CELL_OUT_OF_RANGE",
                [](v1::OptimizeRequest& r) { r.mutable_chunks(0)->set_cell(-1); }},
        BadStep{"RepeatedCell", "CELL_REPEATED",
                [](v1::OptimizeRequest& r) {
                  const v1::TensorChunk copy = r.chunks(0);
                  *r.add_chunks() = copy;
                }},
        BadStep{"MissingCell", "CELL_MISSING",
                [](v1::OptimizeRequest& r) { r.mutable_chunks()->RemoveLast(); }},
        BadStep{"ShortPayload", "WRONG_PAYLOAD_SIZE",
                [](v1::OptimizeRequest& r) { r.mutable_chunks(0)->set_payload("123"); }},
        BadStep{"EmptyPayload", "WRONG_PAYLOAD_SIZE",
                [](v1::OptimizeRequest& r) { r.mutable_chunks(0)->clear_payload(); }},
        BadStep{"WrongChecksum", "CHECKSUM_MISMATCH",
                [](v1::OptimizeRequest& r) { r.mutable_chunks(0)->set_crc32c(1); }},
        BadStep{"NotANumber", "NON_FINITE",
                [](v1::OptimizeRequest& r) {
                  r.mutable_chunks(1)->set_payload(Floats({0, kNan, 0}));
                }},
        BadStep{"UnknownAbsentParameter", "UNKNOWN_PARAMETER",
                [](v1::OptimizeRequest& r) { r.mutable_begin()->add_absent_parameters(7); }},
        BadStep{"AbsentTwice", "INVALID_STEP",
                [](v1::OptimizeRequest& r) {
                  r.mutable_begin()->add_absent_parameters(1);
                  r.mutable_begin()->add_absent_parameters(1);
                }},
        BadStep{"RmsOfTooFewParameters", "INVALID_STEP",
                [](v1::OptimizeRequest& r) { r.mutable_begin()->add_parameter_rms(1); }},
        BadStep{"ChunkOfAnAbsentParameter", "PARAMETER_ABSENT",
                [](v1::OptimizeRequest& r) { r.mutable_begin()->add_absent_parameters(1); }},
        BadStep{"TooManyRates", "INVALID_STEP",
                [](v1::OptimizeRequest& r) {
                  r.mutable_begin()->add_learning_rates(1);
                  r.mutable_begin()->add_learning_rates(1);
                }},
        BadStep{"NegativeRate", "INVALID_STEP",
                [](v1::OptimizeRequest& r) { r.mutable_begin()->add_learning_rates(-1); }},
        BadStep{"EndOfAnotherStep", "PROTOCOL_VIOLATION",
                [](v1::OptimizeRequest& r) { r.mutable_end()->set_step(2); }}),
    [](const auto& param) { return std::string(param.param.name); });

TEST_F(OptimizeConversationTest, LeavesAbsentParametersAlone) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  v1::OptimizeRequest request = StepRequest(1, 0.5F);
  request.mutable_chunks()->RemoveLast();
  request.mutable_begin()->add_absent_parameters(1);
  sink->Send(request);

  const v1::OptimizeResponse response = sink->Receive();

  ASSERT_EQ(response.chunks_size(), 1);
  EXPECT_EQ(response.chunks(0).parameter(), 0);
  EXPECT_EQ(session->state().clocks, (std::vector<int64_t>{1, 0}));
}

TEST_F(OptimizeConversationTest, ANewerStreamWinsAndTheOlderLearnsWhy) {
  const auto session = bench_.Create();
  auto older = Open(*session);
  v1::OptimizeRequest half = StepRequest(1, 0.5F);
  half.clear_end();
  older->Send(half);

  auto newer = Open(*session);

  EXPECT_EQ(ErrorReason(older->AwaitFinish()), "SUPERSEDED");
  newer->Send(StepRequest(1, 0.5F));
  EXPECT_EQ(newer->Receive().done().step(), 1);
  EXPECT_EQ(session->progress().epoch, 2);
}

TEST_F(OptimizeConversationTest, AStepWhoseClientVanishesIsNotApplied) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  v1::OptimizeRequest half = StepRequest(1, 0.5F);
  half.clear_end();
  sink->Send(half);
  sink->conversation().OnCancelled();
  EXPECT_EQ(sink->AwaitFinish().code(), absl::StatusCode::kCancelled);

  EXPECT_EQ(session->progress().last_step, 0);
  EXPECT_FALSE(session->progress().held);
  auto next = Open(*session);
  next->Send(StepRequest(1, 0.5F));
  EXPECT_EQ(next->Receive().done().step(), 1);
}

TEST_F(OptimizeConversationTest, ServesAClientThatHalfClosesAfterItsStep) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  sink->Send(StepRequest(1, 0.5F));
  sink->CloseSending();
  EXPECT_EQ(sink->Receive().done().step(), 1);
  EXPECT_TRUE(sink->AwaitFinish().ok());
}

TEST_F(OptimizeConversationTest, RefusesAHalfCloseInTheMiddleOfAStep) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  v1::OptimizeRequest half = StepRequest(1, 0.5F);
  half.clear_end();
  sink->Send(half);
  sink->CloseSending();
  EXPECT_EQ(ErrorReason(sink->AwaitFinish()), "PROTOCOL_VIOLATION");
}

TEST_F(OptimizeConversationTest, HoldsTheNextStepUntilTheUpdatesHaveLeft) {
  limits_.payload_bytes = 1;  // A message for each parameter.
  const auto session = bench_.Create();
  auto sink = Open(*session);
  sink->Block();
  sink->Send(StepRequest(1, 0.5F));
  sink->Receive();
  sink->Send(StepRequest(2, 0.5F));
  bench_.Settle();
  EXPECT_EQ(session->progress().last_step, 1);
  sink->Unblock();
  EXPECT_EQ(sink->Receive().done().step(), 1);
  while (!sink->Receive().has_done()) {
  }
  EXPECT_EQ(session->progress().last_step, 2);
}

TEST_F(OptimizeConversationTest, EndsAStreamThatIsSilentInTheMiddleOfAStep) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  v1::OptimizeRequest half = StepRequest(1, 0.5F);
  half.clear_end();
  sink->Send(half);
  bench_.clock.Advance(std::chrono::seconds(limits_.step_timeout_seconds + 1));
  sink->conversation().OnTick();
  EXPECT_EQ(ErrorReason(sink->AwaitFinish()), "STEP_TIMEOUT");
}

TEST_F(OptimizeConversationTest, KeepsAnIdleStreamWithHeartbeats) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  bench_.clock.Advance(std::chrono::minutes(50));
  sink->conversation().OnTick();
  EXPECT_TRUE(sink->Receive().has_heartbeat());
  EXPECT_FALSE(sink->finished());
  v1::OptimizeRequest heartbeat;
  heartbeat.mutable_heartbeat();
  sink->Send(heartbeat);
  sink->Send(StepRequest(1, 0.5F));
  EXPECT_EQ(sink->Receive().done().step(), 1);
}

TEST_F(OptimizeConversationTest, EndsAStreamThatIdlesForTooLongWhateverItsHeartbeats) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  bench_.clock.Advance(std::chrono::hours(1));
  v1::OptimizeRequest heartbeat;
  heartbeat.mutable_heartbeat();
  sink->Send(heartbeat);
  sink->conversation().OnTick();
  EXPECT_EQ(ErrorReason(sink->AwaitFinish()), "STREAM_IDLE");
}

TEST_F(OptimizeConversationTest, EndsAStreamWhoseCredentialsAreRevoked) {
  const auto revoked = std::make_shared<std::atomic<bool>>(false);
  caller_.revoked = revoked;
  const auto session = bench_.Create();
  auto sink = Open(*session);
  sink->conversation().OnTick();
  EXPECT_FALSE(sink->finished());
  revoked->store(true);
  sink->conversation().OnTick();
  EXPECT_EQ(ErrorReason(sink->AwaitFinish()), "WRONG_CREDENTIALS");
}

TEST_F(OptimizeConversationTest, RefusesAStepThatComesTooEarlyAndTakesItLater) {
  bench_.tenant_limits.steps_per_second = 1;
  const auto session = bench_.Create();
  auto sink = Open(*session);
  sink->Send(StepRequest(1, 0.5F));
  EXPECT_EQ(sink->Receive().done().step(), 1);
  sink->Send(StepRequest(2, 0.5F));
  const v1::OptimizeResponse refused = sink->Receive();
  EXPECT_EQ(refused.error().reason(), "RATE_LIMITED");
  EXPECT_EQ(refused.error().metadata().at("retry_after_ms"), "1000");
  bench_.clock.Advance(std::chrono::seconds(1));
  sink->Send(StepRequest(2, 0.5F));
  EXPECT_EQ(sink->Receive().done().step(), 2);
}

TEST_F(OptimizeConversationTest, AnotherTenantsSessionIsNotThereEvenWithItsToken) {
  const auto session = bench_.Create();
  caller_ = Caller{.tenant = "other", .admin = false};
  auto sink = Connect();
  sink->Send(OpenRequest(*session));
  EXPECT_EQ(ErrorReason(sink->AwaitFinish()), "SESSION_NOT_FOUND");
}

TEST_F(OptimizeConversationTest, CancelsAClientThatDoesNotReadItsGoodbye) {
  const auto session = bench_.Create();
  auto older = Open(*session);
  older->Block();
  older->Send(StepRequest(1, 0.5F));
  older->Receive();
  auto newer = Open(*session);
  bench_.Settle();  // The executor's thread may still be running events of the older stream.
  EXPECT_FALSE(older->finished());
  bench_.clock.Advance(std::chrono::seconds(limits_.goodbye_seconds + 1));
  older->conversation().OnTick();
  EXPECT_TRUE(older->cancelled());
}

TEST_F(OptimizeConversationTest, DrainEndsAnIdleStreamWithARetryHint) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  sink->conversation().OnDrain();
  const absl::Status status = sink->AwaitFinish();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ErrorReason(status), "SHUTTING_DOWN");
  EXPECT_EQ(ErrorMetadata(status).at("retry_after_ms"), "1000");
}

TEST_F(OptimizeConversationTest, DrainLetsTheStepInHandFinish) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  sink->Block();
  sink->Send(StepRequest(1, 0.5F));
  EXPECT_EQ(sink->Receive().done().step(), 1);
  sink->conversation().OnDrain();
  sink->Unblock();
  EXPECT_EQ(ErrorReason(sink->AwaitFinish()), "SHUTTING_DOWN");
}

TEST_F(OptimizeConversationTest, DeletingTheSessionEndsItsStream) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  bench_.store.Delete(session);
  EXPECT_EQ(ErrorReason(sink->AwaitFinish()), "SESSION_NOT_FOUND");
}

TEST_F(OptimizeConversationTest, RefusesRanksLanesAndEncodingsThatItDoesNotServe) {
  const auto session = bench_.Create();
  v1::OptimizeRequest request = OpenRequest(*session);
  request.mutable_open()->set_rank(1);
  auto first = Connect();
  first->Send(request);
  EXPECT_EQ(ErrorReason(first->AwaitFinish()), "UNSUPPORTED");

  request.mutable_open()->set_rank(0);
  request.mutable_open()->set_gradient_encoding(v1::DATA_TYPE_FLOAT64);
  auto second = Connect();
  second->Send(request);
  EXPECT_EQ(ErrorReason(second->AwaitFinish()), "UNSUPPORTED");
}

TEST_F(OptimizeConversationTest, CarriesGradientsAndUpdatesInSixteenBits) {
  const auto session = bench_.Create(SmallSpec("sgd"));
  v1::OptimizeRequest open = OpenRequest(*session);
  open.mutable_open()->set_gradient_encoding(v1::DATA_TYPE_BFLOAT16);
  open.mutable_open()->set_update_encoding(v1::DATA_TYPE_FLOAT16);
  open.mutable_open()->set_checksums(true);
  auto sink = Connect();
  sink->Send(open);
  sink->Receive();
  v1::OptimizeRequest step = StepRequest(1, 0);
  for (int parameter = 0; parameter < 2; ++parameter) {
    std::string half;
    for (size_t i = 0; i < kElements[parameter]; ++i) half += std::string("\x80\x3F", 2);  // 1.0
    step.mutable_chunks(parameter)->set_payload(half);
  }
  sink->Send(step);

  const v1::OptimizeResponse response = sink->Receive();

  ASSERT_EQ(response.chunks_size(), 2);
  EXPECT_EQ(response.chunks(1).payload(), std::string("\x00\x3C\x00\x3C\x00\x3C", 6));  // 1.0
  EXPECT_EQ(response.chunks(1).scale(), -0.01);
  EXPECT_TRUE(response.chunks(1).has_crc32c());
}

TEST_F(OptimizeConversationTest, EndsOnGarbageWithoutHarmToOthers) {
  const auto session = bench_.Create();
  auto sink = Open(*session);
  auto other_session = bench_.Create();
  auto other = Open(*other_session);
  sink->SendBytes("\x1A\xFF\xFF\xFF\xFF\x0F garbage");
  EXPECT_EQ(ErrorReason(sink->AwaitFinish()), "PROTOCOL_VIOLATION");
  other->Send(StepRequest(1, 0.5F));
  EXPECT_EQ(other->Receive().done().step(), 1);
}

TEST_F(OptimizeConversationTest, RefusesAStepInBandWhenTheQueueIsFull) {
  // The device is busy, and as many tasks wait as may.
  const auto session = bench_.Create();
  auto sink = Open(*session);
  mnemosyne::testing::Notification started;
  mnemosyne::testing::Notification release;
  ASSERT_TRUE(bench_.executor
                  .Submit("",
                          [&](StepExecutor::Device&) {
                            started.Notify();
                            release.WaitForNotification();
                          })
                  .ok());
  started.WaitForNotification();
  while (bench_.executor.Submit("", [](StepExecutor::Device&) {}).ok()) {
  }
  sink->Send(StepRequest(1, 0.5F));
  EXPECT_EQ(sink->Receive().error().reason(), "QUEUE_FULL");
  release.Notify();
  bench_.Settle();
  sink->Send(StepRequest(1, 0.5F));
  EXPECT_EQ(sink->Receive().done().step(), 1);
}

}  // namespace
}  // namespace mnemosyne::server
