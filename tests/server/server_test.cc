// The whole daemon in this process, over a real socket.
#include "server/server.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "mnemosyne/v1/error.pb.h"
#include "mnemosyne/v1/optimizer_service.grpc.pb.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using ::mnemosyne::testing::IsError;
using ::testing::HasSubstr;

std::string Reason(const grpc::Status& status) {
  v1::ErrorStatus details;
  v1::ErrorInfo info;
  // An error that goes away by itself has a google.rpc.RetryInfo behind its ErrorInfo.
  if (!details.ParseFromString(status.error_details()) || details.details_size() == 0 ||
      !info.ParseFromString(details.details(0).value())) {
    return "no details: " + status.error_message();
  }
  return info.reason();
}

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    static std::atomic<int> count = 0;
    config_.listen.clear();
    config_.socket = fmt::format("{}/server-{}-{}.sock", ::testing::TempDir(), getpid(), ++count);
    config_.threads = 1;
    config_.drain_seconds = 2;
    ASSERT_OK(CompleteConfig(config_));
    auto started = Server::Start(config_, Clock::Real());
    ASSERT_OK(started);
    server_ = *std::move(started);
    stub_ = v1::OptimizerService::NewStub(
        grpc::CreateChannel("unix:" + config_.socket, grpc::InsecureChannelCredentials()));
  }

  v1::CreateSessionResponse Create(const std::string& optimizer = "adamw") {
    v1::CreateSessionRequest request;
    static std::atomic<int> count = 0;
    request.set_request_id(std::to_string(++count));
    request.mutable_spec()->set_optimizer(optimizer);
    v1::ParameterSpec& weight = *request.mutable_spec()->add_parameters();
    weight.set_name("weight");
    weight.add_shape(4);
    v1::CreateSessionResponse response;
    grpc::ClientContext context;
    const grpc::Status status = stub_->CreateSession(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  grpc::Status Step(const v1::CreateSessionResponse& session, int64_t number, float gradient,
                    v1::StepResponse& response, int64_t epoch = 0) {
    v1::StepRequest request;
    request.set_session(session.session().name());
    request.set_token(session.token());
    request.set_epoch(epoch);
    request.mutable_begin()->set_step(number);
    const std::vector<float> values(4, gradient);
    request.add_chunks()->set_payload(values.data(), values.size() * sizeof(float));
    grpc::ClientContext context;
    return stub_->Step(&context, request, &response);
  }

  std::vector<v1::StatePart> Export(const v1::CreateSessionResponse& session) {
    v1::ExportStateRequest request;
    request.set_name(session.session().name());
    request.set_token(session.token());
    grpc::ClientContext context;
    const auto reader = stub_->ExportState(&context, request);
    std::vector<v1::StatePart> parts;
    v1::ExportStateResponse response;
    while (reader->Read(&response)) parts.push_back(response.part());
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return parts;
  }

  grpc::Status Import(const v1::CreateSessionResponse& session,
                      const std::vector<v1::StatePart>& parts) {
    grpc::ClientContext context;
    v1::ImportStateResponse response;
    const auto writer = stub_->ImportState(&context, &response);
    for (size_t i = 0; i < parts.size(); ++i) {
      v1::ImportStateRequest request;
      if (i == 0) {
        request.set_name(session.session().name());
        request.set_token(session.token());
      }
      *request.mutable_part() = parts[i];
      if (!writer->Write(request)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }

  ServerConfig config_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::OptimizerService::Stub> stub_;
};

TEST_F(ServerTest, RunsUnarySteps) {
  const auto session = Create();
  v1::StepResponse first;
  ASSERT_TRUE(Step(session, 1, 0.5F, first).ok());
  EXPECT_EQ(first.done().step(), 1);
  ASSERT_EQ(first.chunks_size(), 1);
  EXPECT_EQ(first.chunks(0).payload().size(), 16);

  v1::StepResponse again;
  ASSERT_TRUE(Step(session, 1, 0.5F, again, first.epoch()).ok());
  EXPECT_TRUE(again.done().replayed());
  EXPECT_EQ(again.chunks(0).SerializeAsString(), first.chunks(0).SerializeAsString());
}

TEST_F(ServerTest, AUnaryCallerWithAnOldEpochIsSuperseded) {
  const auto session = Create();
  v1::StepResponse first;
  ASSERT_TRUE(Step(session, 1, 0.5F, first).ok());
  v1::StepResponse other;
  ASSERT_TRUE(Step(session, 2, 0.5F, other).ok());  // Takes the session over.
  v1::StepResponse late;
  EXPECT_EQ(Reason(Step(session, 3, 0.5F, late, first.epoch())), "SUPERSEDED");
}

TEST_F(ServerTest, RefusedUnaryStepsNameTheirReason) {
  const auto session = Create();
  v1::StepResponse response;
  const grpc::Status gap = Step(session, 2, 0.5F, response);
  EXPECT_EQ(gap.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(Reason(gap), "STEP_GAP");
  auto wrong = session;
  wrong.set_token("guess");
  EXPECT_EQ(Reason(Step(wrong, 1, 0.5F, response)), "WRONG_TOKEN");
}

TEST_F(ServerTest, AnExportedStateGoesOnInAnotherSessionWithTheSameBits) {
  for (const char* optimizer : {"adamw", "lion", "sgd"}) {
    const auto source = Create(optimizer);
    v1::StepResponse response;
    for (int64_t step = 1; step <= 3; ++step) {
      ASSERT_TRUE(Step(source, step, 0.1F * static_cast<float>(step), response).ok());
    }
    const auto target = Create(optimizer);
    const grpc::Status imported = Import(target, Export(source));
    ASSERT_TRUE(imported.ok()) << imported.error_message();

    v1::StepResponse expected;
    v1::StepResponse actual;
    ASSERT_TRUE(Step(source, 4, -0.3F, expected).ok());
    ASSERT_TRUE(Step(target, 4, -0.3F, actual).ok());

    EXPECT_EQ(actual.chunks(0).SerializeAsString(), expected.chunks(0).SerializeAsString())
        << optimizer;
  }
}

TEST_F(ServerTest, ABrokenImportChangesNothing) {
  const auto session = Create();
  v1::StepResponse response;
  ASSERT_TRUE(Step(session, 1, 0.5F, response).ok());
  const std::vector<v1::StatePart> good = Export(session);
  ASSERT_GE(good.size(), 3);

  std::vector<v1::StatePart> flipped = good;
  std::string data = flipped[1].data();
  data[0] = static_cast<char>(data[0] ^ 1);
  flipped[1].set_data(data);
  EXPECT_EQ(Reason(Import(session, flipped)), "CHECKSUM_MISMATCH");

  std::vector<v1::StatePart> no_end(good.begin(), good.end() - 1);
  EXPECT_EQ(Reason(Import(session, no_end)), "PROTOCOL_VIOLATION");

  std::vector<v1::StatePart> no_data = {good.front(), good.back()};
  EXPECT_EQ(Reason(Import(session, no_data)), "STATE_TRUNCATED");

  std::vector<v1::StatePart> too_long = {good[0], good[1], good[1], good.back()};
  EXPECT_EQ(Reason(Import(session, too_long)), "PROTOCOL_VIOLATION");

  std::vector<v1::StatePart> other_shape = good;
  other_shape[0].mutable_header()->mutable_spec()->mutable_parameters(0)->set_shape(0, 5);
  EXPECT_EQ(Reason(Import(session, other_shape)), "STATE_MISMATCH");

  std::vector<v1::StatePart> headless(good.begin() + 1, good.end());
  EXPECT_EQ(Reason(Import(session, headless)), "PROTOCOL_VIOLATION");

  ASSERT_TRUE(Step(session, 2, 0.5F, response).ok());
  EXPECT_EQ(response.done().step(), 2);
}

TEST_F(ServerTest, AnImportGoesBackToItsStep) {
  const auto session = Create();
  v1::StepResponse response;
  ASSERT_TRUE(Step(session, 1, 0.5F, response).ok());
  const auto checkpoint = Export(session);
  ASSERT_TRUE(Step(session, 2, 0.5F, response).ok());
  const std::string second = response.chunks(0).SerializeAsString();
  ASSERT_TRUE(Step(session, 3, 0.5F, response).ok());

  ASSERT_TRUE(Import(session, checkpoint).ok());

  ASSERT_TRUE(Step(session, 2, 0.5F, response).ok());
  EXPECT_EQ(response.chunks(0).SerializeAsString(), second);
}

TEST_F(ServerTest, UpdatesValuesFromTheNextStepOn) {
  const auto session = Create("sgd");
  v1::StepResponse response;
  ASSERT_TRUE(Step(session, 1, 0.5F, response).ok());
  v1::UpdateSessionRequest request;
  request.set_name(session.session().name());
  request.set_token(session.token());
  (*request.mutable_spec()->mutable_hyperparameters())["learning_rate"] = 0.5;
  request.mutable_update_mask()->add_paths("hyperparameters");
  v1::UpdateSessionResponse updated;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->UpdateSession(&context, request, &updated).ok());

  // The last step is answered as it was, the next one has the new rate.
  const double old_scale = response.chunks(0).scale();
  ASSERT_TRUE(Step(session, 1, 0.5F, response).ok());
  EXPECT_EQ(response.chunks(0).scale(), old_scale);
  ASSERT_TRUE(Step(session, 2, 0.5F, response).ok());
  EXPECT_EQ(response.chunks(0).scale(), -0.5);
}

TEST_F(ServerTest, RefusesAnUpdateOfWhatCannotChange) {
  const auto session = Create();
  v1::UpdateSessionRequest request;
  request.set_name(session.session().name());
  request.set_token(session.token());
  request.mutable_update_mask()->add_paths("optimizer");
  v1::UpdateSessionResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub_->UpdateSession(&context, request, &response);
  EXPECT_EQ(Reason(status), "INVALID_SPEC");
  EXPECT_THAT(status.error_message(), HasSubstr("hyperparameters"));
}

TEST_F(ServerTest, TheSocketsOwnerDeletesWithoutAToken) {
  const auto session = Create();
  v1::DeleteSessionRequest request;
  request.set_name(session.session().name());
  v1::DeleteSessionResponse response;
  grpc::ClientContext context;
  EXPECT_TRUE(stub_->DeleteSession(&context, request, &response).ok());
  v1::StepResponse step;
  EXPECT_EQ(Reason(Step(session, 1, 0.5F, step)), "SESSION_NOT_FOUND");
}

TEST_F(ServerTest, TellsWhatItIs) {
  Create();
  v1::GetServerInfoResponse info;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->GetServerInfo(&context, {}, &info).ok());
  EXPECT_FALSE(info.version().empty());
  EXPECT_EQ(info.session_count(), 1);
  EXPECT_GT(info.reserved_bytes(), 0);
  EXPECT_EQ(info.devices_size(), 1);

  v1::ListOptimizersResponse optimizers;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->ListOptimizers(&second, {}, &optimizers).ok());
  EXPECT_GE(optimizers.optimizers_size(), 4);
  for (const v1::Optimizer& optimizer : optimizers.optimizers()) {
    EXPECT_FALSE(optimizer.description().empty());
    EXPECT_GT(optimizer.hyperparameters_size(), 0);
  }
}

TEST_F(ServerTest, RefusesAMessageAboveTheLimitAndServesOthers) {
  const auto session = Create();
  v1::StepRequest request;
  request.set_session(session.session().name());
  request.set_token(session.token());
  request.add_chunks()->set_payload(std::string(5 << 20, '\0'));
  v1::StepResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub_->Step(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Step(session, 1, 0.5F, response).ok());
}

TEST_F(ServerTest, DrainsInTimeWithAnOpenStream) {
  const auto session = Create();
  grpc::ClientContext context;
  const auto stream = stub_->Optimize(&context);
  v1::OptimizeRequest open;
  open.mutable_open()->set_session(session.session().name());
  open.mutable_open()->set_token(session.token());
  ASSERT_TRUE(stream->Write(open));
  v1::OptimizeResponse opened;
  ASSERT_TRUE(stream->Read(&opened));

  server_->Drain();

  while (stream->Read(&opened)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Reason(status), "SHUTTING_DOWN");
  EXPECT_THAT(status.error_details(), HasSubstr("google.rpc.RetryInfo"));
  EXPECT_NE(::access(config_.socket.c_str(), F_OK), 0);
  server_.reset();
}

TEST_F(ServerTest, RefusesASocketThatAnotherDaemonHolds) {
  EXPECT_THAT(Server::Start(config_, Clock::Real()).status(),
              IsError(absl::StatusCode::kUnavailable, "another daemon"));
}

TEST_F(ServerTest, RefusesADeviceThatIsNotThere) {
  ServerConfig config = config_;
  config.socket += ".other";
  config.device = "cuda:99";
  EXPECT_FALSE(Server::Start(config, Clock::Real()).ok());
  config.device = "tpu";
  EXPECT_FALSE(Server::Start(config, Clock::Real()).ok());
}

}  // namespace
}  // namespace mnemosyne::server
