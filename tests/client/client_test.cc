#include "mnemosyne/client.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/client/testing.h"

namespace mnemosyne {
namespace {

using absl::StatusCode;
using ::testing::HasSubstr;

class ClientTest : public ::testing::Test {
 protected:
  CreatedSession MakeSession(const std::vector<size_t>& sizes = {2, 3}) {
    auto session = client_->CreateSession(MakeSpec(sizes));
    EXPECT_THAT(session, IsOk());
    return *std::move(session);
  }

  FakeDaemon daemon_;
  std::unique_ptr<Client> client_ = ConnectTo(daemon_);
};

std::filesystem::path TemporaryPath(const std::string& name) {
  return std::filesystem::path(::testing::TempDir()) / (name + std::to_string(::getpid()));
}

TEST(ClientConnectTest, SaysThatNobodyAnswers) {
  ClientOptions options;
  options.connect_timeout = std::chrono::milliseconds(100);
  const std::string address = "unix:" + TemporaryPath("nobody").string();

  const auto client = Client::Connect(address, options);

  EXPECT_THAT(client, Fails(StatusCode::kUnavailable, "UNAVAILABLE"));
  EXPECT_THAT(std::string(client.status().message()), HasSubstr(address));
}

TEST(ClientConnectTest, RefusesAWrongAddress) {
  EXPECT_THAT(Client::Connect("host:port"),
              Fails(StatusCode::kInvalidArgument, "INVALID_ARGUMENT"));
}

TEST_F(ClientTest, ListsOptimizers) {
  const auto optimizers = client_->ListOptimizers();

  ASSERT_THAT(optimizers, IsOk());
  ASSERT_EQ(optimizers->size(), 3);
  EXPECT_EQ((*optimizers)[0].name(), "adamw");
  EXPECT_EQ((*optimizers)[0].hyperparameters(0).name(), "learning_rate");
  EXPECT_EQ((*optimizers)[1].weights_hash(), "c0ffee");
}

TEST_F(ClientTest, ReloadsModels) {
  const auto reload = client_->ReloadModels();

  ASSERT_THAT(reload, IsOk());
  EXPECT_EQ(reload->loaded(0).weights_hash(), "f00d");
  EXPECT_EQ(reload->refused(0).reason(), "truncated");
}

TEST_F(ClientTest, MakesShowsAndDeletesASession) {
  const CreatedSession created = MakeSession();

  const auto shown = client_->GetSession(created.session.name());
  ASSERT_THAT(shown, IsOk());
  EXPECT_EQ(shown->spec().parameters_size(), 2);

  ASSERT_THAT(client_->DeleteSession(created.key()), IsOk());
  EXPECT_THAT(client_->GetSession(created.session.name()),
              Fails(StatusCode::kNotFound, "SESSION_NOT_FOUND"));
}

TEST_F(ClientTest, ErrorsCarryTheReasonAndTheMessageOfTheDaemon) {
  v1::SessionSpec spec;
  spec.set_optimizer("sdg");

  const auto session = client_->CreateSession(spec);

  EXPECT_THAT(session, Fails(StatusCode::kNotFound, "UNKNOWN_OPTIMIZER"));
  EXPECT_THAT(std::string(session.status().message()), HasSubstr("adamw, sgd"));
}

TEST_F(ClientTest, ALostAnswerMakesNoSecondSession) {
  daemon_.Inject(Fault::kLoseCreateAnswer);

  const CreatedSession created = MakeSession();

  EXPECT_EQ(created.session.name(), "sessions/1");
  EXPECT_EQ(daemon_.session_count(), 1);
}

TEST_F(ClientTest, TheSameRequestIdGivesTheSameSession) {
  const auto first = client_->CreateSession(MakeSpec({1}), "job 7");
  const auto second = client_->CreateSession(MakeSpec({1}), "job 7");

  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(first->session.name(), second->session.name());
  EXPECT_EQ(first->token, second->token);
}

TEST_F(ClientTest, EachCallWithoutARequestIdMakesASession) {
  MakeSession();
  MakeSession();

  EXPECT_EQ(daemon_.session_count(), 2);
}

TEST_F(ClientTest, ALostAnswerToADeletionIsNoError) {
  const CreatedSession created = MakeSession();
  daemon_.Inject(Fault::kLoseDeleteAnswer);

  EXPECT_THAT(client_->DeleteSession(created.key()), IsOk());
}

TEST_F(ClientTest, DeletionNeedsTheToken) {
  const CreatedSession created = MakeSession();

  EXPECT_THAT(client_->DeleteSession({created.session.name(), "guess"}),
              Fails(StatusCode::kPermissionDenied, "WRONG_TOKEN"));
  EXPECT_EQ(daemon_.session_count(), 1);
}

TEST_F(ClientTest, ListsTheSessionsOfAllPages) {
  for (int i = 0; i < 5; ++i) MakeSession();

  const auto sessions = client_->ListSessions();

  ASSERT_THAT(sessions, IsOk());
  ASSERT_EQ(sessions->size(), 5);
  EXPECT_EQ(sessions->back().name(), "sessions/5");
}

TEST_F(ClientTest, ListsNoSessions) {
  const auto sessions = client_->ListSessions();

  ASSERT_THAT(sessions, IsOk());
  EXPECT_TRUE(sessions->empty());
}

TEST_F(ClientTest, UpdatesWhatTheMaskNames) {
  const CreatedSession created = MakeSession();
  v1::SessionSpec spec;
  spec.set_label("new");
  (*spec.mutable_hyperparameters())["learning_rate"] = 0.5;

  const auto updated = client_->UpdateSession(created.key(), spec, {"hyperparameters"});

  ASSERT_THAT(updated, IsOk());
  EXPECT_EQ(updated->spec().hyperparameters().at("learning_rate"), 0.5);
  EXPECT_EQ(updated->spec().label(), "");
}

TEST_F(ClientTest, TriesAgainWhileTheDaemonIsAway) {
  for (int i = 0; i < 4; ++i) daemon_.Inject(Fault::kUnavailable);

  const auto info = client_->GetServerInfo();

  ASSERT_THAT(info, IsOk());
  EXPECT_EQ(info->version(), "9.8.7");
}

TEST_F(ClientTest, GivesUpAfterItsCallTimeout) {
  ClientOptions options;
  options.call_timeout = std::chrono::milliseconds(100);
  options.retry = QuickRetry();
  const auto client = *Client::Connect(daemon_.address(), options);
  daemon_.Stop();

  EXPECT_THAT(client->GetServerInfo(), Fails(StatusCode::kUnavailable, "UNAVAILABLE"));
}

TEST_F(ClientTest, TellsWhetherTheDaemonServes) {
  EXPECT_THAT(client_->CheckHealth(), IsOk());

  daemon_.SetServing(false);
  EXPECT_THAT(client_->CheckHealth(), Fails(StatusCode::kUnavailable, "NOT_SERVING"));

  daemon_.Stop();
  EXPECT_THAT(client_->CheckHealth(), Fails(StatusCode::kUnavailable, "UNAVAILABLE"));
}

TEST_F(ClientTest, RunsAStepInOneMessage) {
  const CreatedSession created = MakeSession({2, 2'500});
  Model gradients = MakeModel({2, 2'500});
  Model updates = MakeModel({2, 2'500});
  StepOptions options;
  options.step = 1;

  const auto result = client_->Step(created.session, created.token, Views(gradients),
                                    MutableViews(updates), options);

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->step, 1);
  EXPECT_FLOAT_EQ(updates[0][1], -0.1F * gradients[0][1]);
  EXPECT_FLOAT_EQ(updates[1][2'499], -0.1F * gradients[1][2'499]);

  const auto replayed = client_->Step(created.session, created.token, Views(gradients),
                                      MutableViews(updates), options);
  ASSERT_THAT(replayed, IsOk());
  EXPECT_TRUE(replayed->replayed);
  EXPECT_EQ(daemon_.applied_count(), 1);
}

TEST_F(ClientTest, AStepOutOfOrderIsRefused) {
  const CreatedSession created = MakeSession();
  Model gradients = MakeModel({2, 3});
  Model updates = MakeModel({2, 3});
  StepOptions options;
  options.step = 3;

  EXPECT_THAT(client_->Step(created.session, created.token, Views(gradients), MutableViews(updates),
                            options),
              Fails(StatusCode::kOutOfRange, "STEP_GAP"));
}

TEST_F(ClientTest, CarriesAStateFromOneSessionToAnother) {
  const CreatedSession from = MakeSession();
  const CreatedSession to = MakeSession();
  Model gradients = MakeModel({2, 3});
  Model updates = MakeModel({2, 3});
  StepOptions options;
  options.step = 1;
  ASSERT_THAT(
      client_->Step(from.session, from.token, Views(gradients), MutableViews(updates), options),
      IsOk());
  std::stringstream state;

  ASSERT_THAT(client_->ExportState(from.key(), state), IsOk());
  const auto imported = client_->ImportState(to.key(), state);

  ASSERT_THAT(imported, IsOk());
  EXPECT_EQ(imported->last_step(), 1);
}

TEST_F(ClientTest, KeepsAStateInAFile) {
  const CreatedSession created = MakeSession();
  const auto path = TemporaryPath("state");

  ASSERT_THAT(client_->ExportStateToFile(created.key(), path), IsOk());
  EXPECT_THAT(client_->ImportStateFromFile(created.key(), path), IsOk());

  EXPECT_FALSE(std::filesystem::exists(path.string() + ".part"));
  std::filesystem::remove(path);
}

TEST_F(ClientTest, AFailedExportLeavesTheOldFileAndNoOther) {
  const auto path = TemporaryPath("old_state");
  std::ofstream(path) << "old";

  EXPECT_THAT(client_->ExportStateToFile({"sessions/none", ""}, path),
              Fails(StatusCode::kNotFound, "SESSION_NOT_FOUND"));

  std::string contents;
  std::ifstream(path) >> contents;
  EXPECT_EQ(contents, "old");
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".part"));
  std::filesystem::remove(path);
}

TEST_F(ClientTest, AFileThatCannotBeWrittenOrReadIsSaidByName) {
  const CreatedSession created = MakeSession();
  const std::filesystem::path path = "/nonexistent/state";

  EXPECT_THAT(client_->ExportStateToFile(created.key(), path),
              Fails(StatusCode::kFailedPrecondition, "FAILED_PRECONDITION"));
  EXPECT_THAT(client_->ImportStateFromFile(created.key(), path),
              Fails(StatusCode::kNotFound, "NOT_FOUND"));
}

TEST_F(ClientTest, AStateThatIsCutShortChangesNothing) {
  const CreatedSession created = MakeSession();
  std::stringstream state;
  ASSERT_THAT(client_->ExportState(created.key(), state), IsOk());
  const std::string whole = state.str();
  for (size_t size = 0; size < whole.size(); ++size) {
    std::stringstream cut(whole.substr(0, size));

    EXPECT_THAT(client_->ImportState(created.key(), cut), Fails(StatusCode::kDataLoss, "DATA_LOSS"))
        << size;
  }
}

TEST_F(ClientTest, AnImportToAnUnknownSessionSaysSo) {
  const CreatedSession created = MakeSession();
  std::stringstream state;
  ASSERT_THAT(client_->ExportState(created.key(), state), IsOk());

  EXPECT_THAT(client_->ImportState({"sessions/none", ""}, state),
              Fails(StatusCode::kNotFound, "SESSION_NOT_FOUND"));
}

TEST_F(ClientTest, AFullDiskIsAnError) {
  const CreatedSession created = MakeSession();
  std::ofstream full("/dev/full");
  full << std::unitbuf;

  EXPECT_THAT(client_->ExportState(created.key(), full), Fails(StatusCode::kDataLoss, "DATA_LOSS"));
}

}  // namespace
}  // namespace mnemosyne
