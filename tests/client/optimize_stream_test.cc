#include "mnemosyne/optimize_stream.h"

#include <filesystem>
#include <limits>
#include <thread>

#include "tests/client/testing.h"

namespace mnemosyne {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Tensors that share messages, that fill one cell, and that fill many.
const std::vector<size_t> kSizes = {1, 10, 1'000, 2'500, 3, 40'000};

std::string FaultName(const ::testing::TestParamInfo<Fault>& info) {
  switch (info.param) {
    case Fault::kBreakBeforeApply:
      return "BreakBeforeItIsApplied";
    case Fault::kBreakAfterApply:
      return "BreakAfterItIsApplied";
    case Fault::kBreakInAnswer:
      return "BreakInTheAnswer";
    case Fault::kEndAfterApply:
      return "EndWithoutAnError";
    case Fault::kUnknownCell:
      return "UnknownCell";
    case Fault::kMissingCell:
      return "MissingCell";
    case Fault::kRepeatedCell:
      return "RepeatedCell";
    default:
      return "Fault" + std::to_string(info.index);
  }
}

StreamOptions QuickOptions() {
  StreamOptions options;
  options.retry = QuickRetry();
  options.step_timeout = std::chrono::seconds(30);
  return options;
}

// A daemon, a session and a stream on it.
class OptimizeStreamTest : public ::testing::Test {
 protected:
  OptimizeStreamTest() { Open({}, QuickOptions(), kSizes); }

  void Open(const FakeDaemon::Options& daemon_options, const StreamOptions& options,
            const std::vector<size_t>& sizes) {
    stream_.reset();
    daemon_ = std::make_unique<FakeDaemon>(daemon_options);
    client_ = ConnectTo(*daemon_);
    auto session = client_->CreateSession(MakeSpec(sizes));
    ASSERT_THAT(session, IsOk());
    key_ = session->key();
    auto stream = client_->OpenStream(key_, options);
    ASSERT_THAT(stream, IsOk());
    stream_ = *std::move(stream);
    gradients_ = MakeModel(sizes);
    updates_ = Model();
    for (const size_t size : sizes) {
      updates_.emplace_back(size, std::numeric_limits<float>::quiet_NaN());
    }
  }

  absl::StatusOr<StepResult> Step(const StepOptions& options = {}) {
    return stream_->Step(Views(gradients_), MutableViews(updates_), options);
  }

  void ExpectUpdates() {
    for (size_t i = 0; i < gradients_.size(); ++i) {
      for (size_t j = 0; j < gradients_[i].size(); ++j) {
        ASSERT_FLOAT_EQ(updates_[i][j], -0.1F * gradients_[i][j]) << i << ", " << j;
      }
    }
  }

  std::unique_ptr<FakeDaemon> daemon_;
  std::unique_ptr<Client> client_;
  SessionKey key_;
  std::unique_ptr<OptimizeStream> stream_;
  Model gradients_;
  Model updates_;
};

TEST_F(OptimizeStreamTest, WritesTheUpdateOfEachElement) {
  const auto result = Step();

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->step, 1);
  EXPECT_FALSE(result->replayed);
  EXPECT_EQ(stream_->last_step(), 1);
  ExpectUpdates();
}

TEST_F(OptimizeStreamTest, NumbersItsSteps) {
  for (int step = 1; step <= 20; ++step) {
    const auto result = Step();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->step, step);
  }
  EXPECT_EQ(daemon_->applied_count(), 20);
  EXPECT_EQ(daemon_->open_count(), 1);
}

TEST_F(OptimizeStreamTest, GoesOnWhereTheSessionIs) {
  ASSERT_THAT(Step(), IsOk());
  stream_.reset();

  stream_ = *client_->OpenStream(key_, QuickOptions());

  EXPECT_EQ(stream_->last_step(), 1);
  EXPECT_EQ(stream_->epoch(), 2);
  ASSERT_THAT(Step(), IsOk());
  EXPECT_EQ(stream_->last_step(), 2);
}

TEST_F(OptimizeStreamTest, SendsASmallStepInOneMessage) {
  Open({}, QuickOptions(), std::vector<size_t>(100, 7));

  ASSERT_THAT(Step(), IsOk());

  EXPECT_EQ(daemon_->message_count(), 1);
  ExpectUpdates();
}

TEST_F(OptimizeStreamTest, CutsALargeStepIntoMessagesOfAboutAMebibyte) {
  FakeDaemon::Options options;
  options.cell_elements = 1 << 18;
  options.chunks_per_message = 1;
  Open(options, QuickOptions(), {1 << 20, 5, (1 << 20) + 1, 7});

  ASSERT_THAT(Step(), IsOk());

  EXPECT_GE(daemon_->message_count(), 8);
  EXPECT_LE(daemon_->message_count(), 11);
  ExpectUpdates();
}

TEST_F(OptimizeStreamTest, TakesTenThousandParameters) {
  Open({}, QuickOptions(), std::vector<size_t>(10'000, 3));

  ASSERT_THAT(Step(), IsOk());

  ExpectUpdates();
}

TEST_F(OptimizeStreamTest, SpeaksThroughASocketInTheFileSystem) {
  FakeDaemon::Options options;
  options.socket = ::testing::TempDir() + "stream" + std::to_string(::getpid()) + ".sock";
  Open(options, QuickOptions(), kSizes);

  ASSERT_THAT(Step(), IsOk());

  ExpectUpdates();
}

TEST_F(OptimizeStreamTest, Sends16BitElements) {
  for (const DataType type : {DataType::kBFloat16, DataType::kFloat16}) {
    StreamOptions options = QuickOptions();
    options.gradient_encoding = type;
    options.update_encoding = type;
    Open({}, options, {5, 3'000});
    for (auto& tensor : gradients_) std::ranges::fill(tensor, 2.0F);

    ASSERT_THAT(Step(), IsOk());

    for (const float update : updates_[1]) ASSERT_NEAR(update, -0.2F, 1e-3F);
  }
}

TEST_F(OptimizeStreamTest, RefusesToSendElementsOf64Bits) {
  StreamOptions options;
  options.update_encoding = DataType::kFloat64;

  EXPECT_THAT(client_->OpenStream(key_, options),
              Fails(StatusCode::kInvalidArgument, "INVALID_ARGUMENT"));
}

TEST_F(OptimizeStreamTest, ChecksumsTravelBothWays) {
  StreamOptions options = QuickOptions();
  options.checksums = true;
  Open({}, options, kSizes);
  ASSERT_THAT(Step(), IsOk());
  EXPECT_TRUE(daemon_->had_checksums());

  daemon_->Inject(Fault::kWrongChecksum);

  EXPECT_THAT(Step(), Fails(StatusCode::kDataLoss, "CHECKSUM_MISMATCH"));
  EXPECT_THAT(Step(), IsOk());
  EXPECT_EQ(daemon_->applied_count(), 2);
}

TEST_F(OptimizeStreamTest, MultipliesUpdatesByTheirScaleAndTellsTheDecay) {
  FakeDaemon::Options options;
  options.scale = -4;
  options.decay = 0.25;
  Open(options, QuickOptions(), kSizes);

  const auto result = Step();

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->decays, std::vector<double>(kSizes.size(), 0.25));
  ExpectUpdates();
}

TEST_F(OptimizeStreamTest, AppliesDecayAndUpdateToTheParameters) {
  FakeDaemon::Options options;
  options.decay = 0.5;
  Open(options, QuickOptions(), {2, 3});
  Model parameters = {{8, 8}, {8, 8, 8}};
  gradients_ = {{10, 20}, {30, 40, 50}};

  const auto result = stream_->StepAndApply(Views(gradients_), MutableViews(parameters));

  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(parameters[0], ElementsAre(3, 2));
  EXPECT_THAT(parameters[1], ElementsAre(1, 0, -1));
}

TEST_F(OptimizeStreamTest, AFailedStepLeavesTheParametersAlone) {
  Open({}, QuickOptions(), {2});
  Model parameters = {{8, 9}};
  gradients_ = {{1, 1}};
  daemon_->Inject(Fault::kMissingCell);

  EXPECT_FALSE(stream_->StepAndApply(Views(gradients_), MutableViews(parameters)).ok());

  EXPECT_THAT(parameters[0], ElementsAre(8, 9));
}

TEST_F(OptimizeStreamTest, LeavesAbsentParametersOut) {
  Open({}, QuickOptions(), {2, 3'000, 2});
  Model parameters = {{1, 1}, std::vector<float>(3'000, 1), {1, 1}};
  gradients_ = {{10, 10}, {}, {10, 10}};
  StepOptions options;
  options.absent_parameters = {1};

  ASSERT_THAT(stream_->StepAndApply(Views(gradients_), MutableViews(parameters), options), IsOk());

  EXPECT_THAT(parameters[0], ElementsAre(0, 0));
  EXPECT_EQ(parameters[1], std::vector<float>(3'000, 1));
  EXPECT_THAT(parameters[2], ElementsAre(0, 0));
  EXPECT_THAT(daemon_->last_begin().absent_parameters(), ElementsAre(1));
}

TEST_F(OptimizeStreamTest, ASkippedStepOfAllParametersIsStillAStep) {
  StepOptions options;
  options.absent_parameters = {0, 1, 2, 3, 4, 5};

  ASSERT_THAT(Step(options), IsOk());

  EXPECT_EQ(stream_->last_step(), 1);
}

TEST_F(OptimizeStreamTest, TellsTheDaemonWhatTheJobKnows) {
  StepOptions options;
  options.loss = 2.5;
  options.learning_rate_factors = {0.5};
  options.learning_rates = {0.25};
  options.parameter_rms = std::vector<float>(kSizes.size(), 3);

  ASSERT_THAT(Step(options), IsOk());

  const v1::StepBegin begin = daemon_->last_begin();
  EXPECT_EQ(begin.loss(), 2.5);
  EXPECT_THAT(begin.learning_rate_factors(), ElementsAre(0.5));
  EXPECT_THAT(begin.learning_rates(), ElementsAre(0.25));
  EXPECT_EQ(begin.parameter_rms_size(), 6);
}

TEST_F(OptimizeStreamTest, ChecksTensorsBeforeItSendsThem) {
  gradients_[2].pop_back();
  EXPECT_THAT(Step(), Fails(StatusCode::kInvalidArgument, "INVALID_ARGUMENT"));
  EXPECT_THAT(std::string(Step().status().message()),
              HasSubstr("wrong size of parameter 2: gradient has 999"));

  gradients_.pop_back();
  EXPECT_THAT(Step(), Fails(StatusCode::kInvalidArgument, "INVALID_ARGUMENT"));

  StepOptions options;
  options.absent_parameters = {6};
  gradients_ = MakeModel(kSizes);
  EXPECT_THAT(Step(options), Fails(StatusCode::kInvalidArgument, "INVALID_ARGUMENT"));
  EXPECT_EQ(daemon_->applied_count(), 0);
}

TEST_F(OptimizeStreamTest, PassesOverHeartbeats) {
  daemon_->Inject(Fault::kHeartbeatsFirst);

  ASSERT_THAT(Step(), IsOk());

  ExpectUpdates();
}

TEST_F(OptimizeStreamTest, SendsHeartbeatsWhileItIsIdle) {
  FakeDaemon::Options options;
  options.heartbeat_seconds = 1;
  Open(options, QuickOptions(), kSizes);

  EXPECT_TRUE(daemon_->WaitForHeartbeats(2));

  ASSERT_THAT(Step(), IsOk());
  EXPECT_EQ(stream_->reopen_count(), 0);
}

// Each of these faults breaks the stream in the middle of a step.
class BrokenStreamTest : public OptimizeStreamTest, public ::testing::WithParamInterface<Fault> {};

TEST_P(BrokenStreamTest, SendsTheStepAgainAndItIsAppliedOnce) {
  ASSERT_THAT(Step(), IsOk());
  for (auto& tensor : updates_) std::ranges::fill(tensor, 7.0F);
  daemon_->Inject(GetParam());

  const auto result = Step();

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->step, 2);
  EXPECT_EQ(result->replayed, GetParam() != Fault::kBreakBeforeApply);
  EXPECT_EQ(daemon_->applied_count(), 2);
  EXPECT_EQ(stream_->reopen_count(), 1);
  ExpectUpdates();
  ASSERT_THAT(Step(), IsOk());
  EXPECT_EQ(stream_->last_step(), 3);
}

INSTANTIATE_TEST_SUITE_P(Faults, BrokenStreamTest,
                         ::testing::Values(Fault::kBreakBeforeApply, Fault::kBreakAfterApply,
                                           Fault::kBreakInAnswer, Fault::kEndAfterApply),
                         FaultName);

TEST_F(OptimizeStreamTest, TriesToOpenUntilTheDaemonIsReady) {
  daemon_->Inject(Fault::kBreakAfterApply);
  for (int i = 0; i < 5; ++i) daemon_->Inject(Fault::kRefuseOpen);

  ASSERT_THAT(Step(), IsOk());

  EXPECT_EQ(daemon_->applied_count(), 1);
  EXPECT_EQ(stream_->reopen_count(), 1);
}

TEST_F(OptimizeStreamTest, SurvivesARestartOfTheDaemon) {
  ASSERT_THAT(Step(), IsOk());
  daemon_->Stop();
  absl::StatusOr<StepResult> result;
  std::thread job([&] { result = Step(); });

  daemon_->Start();
  job.join();

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(daemon_->applied_count(), 2);
  EXPECT_EQ(stream_->reopen_count(), 1);
}

TEST_F(OptimizeStreamTest, GivesUpAfterItsTimeoutAndStaysUsable) {
  StreamOptions options = QuickOptions();
  options.step_timeout = std::chrono::milliseconds(300);
  Open({}, options, kSizes);
  daemon_->Stop();

  const auto result = Step();

  EXPECT_THAT(result, Fails(StatusCode::kUnavailable, "UNAVAILABLE"));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("step 1 has no answer after 300"));
  daemon_->Start();
  while (!Step().ok()) {
  }
  EXPECT_EQ(stream_->last_step(), 1);
}

TEST_F(OptimizeStreamTest, DoesNotWaitForASilentDaemonBeyondItsTimeout) {
  StreamOptions options = QuickOptions();
  options.step_timeout = std::chrono::milliseconds(300);
  Open({}, options, kSizes);
  daemon_->Inject(Fault::kSilence);

  EXPECT_THAT(Step(), Fails(StatusCode::kUnavailable, "UNAVAILABLE"));

  const auto result = Step();
  ASSERT_THAT(result, IsOk());
  EXPECT_TRUE(result->replayed);
  EXPECT_EQ(stream_->last_step(), 1);
}

TEST_F(OptimizeStreamTest, OpensAnewWhenTheDaemonMissesItsHeartbeats) {
  FakeDaemon::Options options;
  options.heartbeat_seconds = 1;
  Open(options, QuickOptions(), kSizes);
  daemon_->Inject(Fault::kSilence);

  ASSERT_THAT(Step(), IsOk());

  EXPECT_EQ(stream_->reopen_count(), 1);
}

TEST_F(OptimizeStreamTest, LetsGoOfTheGradientsOfAStepThatDoesNotGetThrough) {
  StreamOptions options = QuickOptions();
  options.step_timeout = std::chrono::milliseconds(500);
  FakeDaemon::Options daemon_options;
  daemon_options.cell_elements = 1 << 18;
  Open(daemon_options, options, {16 << 20});
  daemon_->Inject(Fault::kDeafness);

  EXPECT_THAT(Step(), Fails(StatusCode::kUnavailable, "UNAVAILABLE"));

  gradients_.clear();
  gradients_.shrink_to_fit();
  stream_.reset();
}

TEST_F(OptimizeStreamTest, NeverComesBackAfterItWasSuperseded) {
  ASSERT_THAT(Step(), IsOk());
  daemon_->Inject(Fault::kSupersede);

  EXPECT_THAT(Step(), Fails(StatusCode::kAborted, "SUPERSEDED"));
  EXPECT_THAT(Step(), Fails(StatusCode::kAborted, "SUPERSEDED"));

  EXPECT_EQ(daemon_->open_count(), 1);
  EXPECT_EQ(stream_->last_step(), 1);
}

TEST_F(OptimizeStreamTest, ARefusedStepLeavesTheStreamUsable) {
  daemon_->Inject(Fault::kNonFinite);

  const auto refused = Step();

  EXPECT_THAT(refused, Fails(StatusCode::kInvalidArgument, "NON_FINITE"));
  EXPECT_EQ(ErrorMetadata(refused.status()).at("step"), "1");
  EXPECT_EQ(stream_->last_step(), 0);
  ASSERT_THAT(Step(), IsOk());
  EXPECT_EQ(stream_->last_step(), 1);
  EXPECT_EQ(stream_->reopen_count(), 0);
}

TEST_F(OptimizeStreamTest, StopsSendingAStepThatWasRefused) {
  FakeDaemon::Options options;
  options.cell_elements = 1 << 18;
  options.chunks_per_message = 1;
  Open(options, QuickOptions(), {16 << 20});
  daemon_->Inject(Fault::kRefuseEarly);

  EXPECT_THAT(Step(), Fails(StatusCode::kInvalidArgument, "UNKNOWN_PARAMETER"));

  ASSERT_THAT(Step(), IsOk());
  EXPECT_EQ(stream_->reopen_count(), 0);
  ExpectUpdates();
}

TEST_F(OptimizeStreamTest, WaitsForRoomInAFullQueue) {
  for (int i = 0; i < 3; ++i) daemon_->Inject(Fault::kQueueFull);

  ASSERT_THAT(Step(), IsOk());

  EXPECT_EQ(stream_->reopen_count(), 0);
  EXPECT_EQ(daemon_->applied_count(), 1);
}

TEST_F(OptimizeStreamTest, CanAskForTheLastStepAgain) {
  ASSERT_THAT(Step(), IsOk());
  StepOptions options;
  options.step = 1;

  const auto result = Step(options);

  ASSERT_THAT(result, IsOk());
  EXPECT_TRUE(result->replayed);
  EXPECT_EQ(stream_->last_step(), 1);
  EXPECT_EQ(daemon_->applied_count(), 1);
}

TEST_F(OptimizeStreamTest, AResendWithAnotherGradientIsRefused) {
  ASSERT_THAT(Step(), IsOk());
  gradients_[1][2] = -1;
  StepOptions options;
  options.step = 1;

  EXPECT_THAT(Step(options), Fails(StatusCode::kFailedPrecondition, "RESEND_DIFFERS"));
}

class FaultyAnswerTest : public OptimizeStreamTest, public ::testing::WithParamInterface<Fault> {};

TEST_P(FaultyAnswerTest, IsReportedAndAskedForAgain) {
  daemon_->Inject(GetParam());

  EXPECT_THAT(Step(), Fails(StatusCode::kInternal, "PROTOCOL_VIOLATION"));
  EXPECT_EQ(stream_->last_step(), 0);

  ASSERT_THAT(Step(), IsOk());
  EXPECT_EQ(daemon_->applied_count(), 1);
  ExpectUpdates();
}

INSTANTIATE_TEST_SUITE_P(Faults, FaultyAnswerTest,
                         ::testing::Values(Fault::kUnknownCell, Fault::kMissingCell,
                                           Fault::kRepeatedCell),
                         FaultName);

TEST_F(OptimizeStreamTest, IsNotOpenedOnAnUnknownSessionOrWithAWrongToken) {
  EXPECT_THAT(client_->OpenStream({"sessions/none", ""}),
              Fails(StatusCode::kNotFound, "SESSION_NOT_FOUND"));
  EXPECT_THAT(client_->OpenStream({key_.name, "guess"}),
              Fails(StatusCode::kPermissionDenied, "WRONG_TOKEN"));
}

TEST_F(OptimizeStreamTest, OutlivesItsClient) {
  client_.reset();

  EXPECT_THAT(Step(), IsOk());
}

// A daemon that keeps sessions, and a stream that remembers what it was told.
class ResendTest : public OptimizeStreamTest {
 protected:
  void OpenKept(StreamOptions options) {
    options.on_event = [this](const StreamEvent& event) {
      if (event.kind != StreamEvent::Kind::kReconnected) events_.push_back(event);
    };
    FakeDaemon::Options daemon_options;
    daemon_options.keeps_sessions = true;
    Open(daemon_options, options, {3, 2'500});
  }

  // Takes a step with gradients of its own, the second parameter left out of every third.
  absl::Status StepTo(int64_t step) {
    for (auto& tensor : gradients_) tensor.front() = static_cast<float>(step);
    StepOptions options;
    if (step % 3 == 0) options.absent_parameters = {1};
    options.loss = static_cast<double>(step);
    const auto result = Step(options);
    if (result.ok()) {
      EXPECT_EQ(result->step, step);
    }
    return result.status();
  }

  std::vector<StreamEvent> events_;
};

class ResendFromTest : public ResendTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(ResendFromTest, SendsAgainWhatARestartedDaemonHasLost) {
  StreamOptions options = QuickOptions();
  const auto folder = std::filesystem::path(::testing::TempDir()) / "replay";
  if (std::string_view(GetParam()) == "Folder") {
    std::filesystem::create_directories(folder);
    options.replay_folder = folder;
  }
  OpenKept(options);
  for (int64_t step = 1; step <= 7; ++step) ASSERT_THAT(StepTo(step), IsOk());

  daemon_->CrashBackTo(2);
  ASSERT_THAT(StepTo(8), IsOk());

  // Steps 3 to 7 once more, and step 8.
  EXPECT_EQ(daemon_->applied_count(), 7 + 5 + 1);
  ASSERT_EQ(events_.size(), 1U);
  EXPECT_EQ(events_[0].kind, StreamEvent::Kind::kResent);
  EXPECT_EQ(events_[0].first_step, 3);
  EXPECT_EQ(events_[0].last_step, 7);
  ASSERT_FLOAT_EQ(updates_[0][0], -0.1F * 8);
  stream_.reset();
  EXPECT_TRUE(options.replay_folder.empty() || std::filesystem::is_empty(folder));
}

INSTANTIATE_TEST_SUITE_P(Places, ResendFromTest, ::testing::Values("Memory", "Folder"),
                         [](const auto& param) { return std::string(param.param); });

TEST_F(ResendTest, SaysThatStepsAreLostIfItKeptNone) {
  StreamOptions options = QuickOptions();
  options.replay_bytes = 0;
  OpenKept(options);
  for (int64_t step = 1; step <= 3; ++step) ASSERT_THAT(StepTo(step), IsOk());

  daemon_->CrashBackTo(1);

  EXPECT_THAT(StepTo(4), Fails(StatusCode::kFailedPrecondition, "STATE_MISMATCH"));
  EXPECT_EQ(daemon_->applied_count(), 3);
}

TEST_F(ResendTest, KeepsNoMoreThanItsBound) {
  StreamOptions options = QuickOptions();
  options.replay_bytes = 2 * 2'503 * sizeof(float);
  OpenKept(options);
  for (int64_t step = 1; step <= 5; ++step) ASSERT_THAT(StepTo(step), IsOk());

  daemon_->CrashBackTo(3);
  ASSERT_THAT(StepTo(6), IsOk());
  daemon_->CrashBackTo(2);

  EXPECT_THAT(StepTo(7), Fails(StatusCode::kFailedPrecondition, "STATE_MISMATCH"));
}

TEST_F(ResendTest, LetsGoOfDurableSteps) {
  StreamOptions options = QuickOptions();
  options.replay_bytes = 2 * 2'503 * sizeof(float);
  OpenKept(options);
  for (int64_t step = 1; step <= 20; ++step) {
    daemon_->SetDurableStep(step - 1);
    ASSERT_THAT(StepTo(step), IsOk());
  }

  daemon_->CrashBackTo(19);

  ASSERT_THAT(StepTo(21), IsOk());
  EXPECT_EQ(daemon_->applied_count(), 22);
}

TEST_F(ResendTest, TellsOfAFolderThatCannotBeWritten) {
  StreamOptions options = QuickOptions();
  options.replay_folder = "/nowhere/at/all";
  OpenKept(options);

  ASSERT_THAT(StepTo(1), IsOk());

  ASSERT_EQ(events_.size(), 1U);
  EXPECT_EQ(events_[0].kind, StreamEvent::Kind::kDurability);
  EXPECT_THAT(events_[0].message, HasSubstr("/nowhere/at/all"));
}

TEST_F(ResendTest, NeverReopensAfterSomebodyElseTookTheSession) {
  OpenKept(QuickOptions());
  ASSERT_THAT(StepTo(1), IsOk());

  daemon_->TakeOver();
  daemon_->CrashBackTo(1);

  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(StepTo(2), Fails(StatusCode::kAborted, "SUPERSEDED"));
  }
  EXPECT_EQ(daemon_->open_count(), 1);
}

}  // namespace
}  // namespace mnemosyne
