// The client with a real daemon that dies and comes back.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "mnemosyne/client.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne {
namespace {

constexpr std::chrono::milliseconds kPoll(5);
constexpr size_t kElements = 700;

// A daemon on a socket and a state folder that stay when it is started again.
class Daemon {
 public:
  explicit Daemon(std::filesystem::path folder) : folder_(std::move(folder)) { Start(); }
  ~Daemon() {
    if (process_ > 0) End(SIGKILL);
  }

  std::string address() const { return "unix:" + (folder_ / "socket").string(); }
  std::filesystem::path state() const { return folder_ / "state"; }

  void Start() {
    std::filesystem::remove(folder_ / "ready");
    process_ = ::fork();
    if (process_ == 0) {
      const int log = ::open((folder_ / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      ::dup2(log, STDERR_FILENO);
      ::execl(MNEMOSYNED_PATH, MNEMOSYNED_PATH, "--listen", "none", "--socket",
              (folder_ / "socket").c_str(), "--ready-file", (folder_ / "ready").c_str(),
              "--state-dir", state().c_str(), "--snapshot-seconds", "0", "--drain-seconds", "1",
              "--models", "none", "--threads", "1", nullptr);
      ::_exit(127);
    }
    while (!std::filesystem::exists(folder_ / "ready")) {
      ASSERT_EQ(::waitpid(process_, nullptr, WNOHANG), 0) << "the daemon does not start";
      std::this_thread::sleep_for(kPoll);
    }
  }

  // Ends it; its exit code, or minus the signal that it died from.
  int End(int signal) {
    ::kill(process_, signal);
    return Wait();
  }

  int Wait() {
    int status = 0;
    ::waitpid(process_, &status, 0);
    process_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  const std::filesystem::path folder_;
  pid_t process_ = 0;
};

class DaemonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/clientXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    daemon_ = std::make_unique<Daemon>(folder_);
    auto connected = Client::Connect(daemon_->address());
    ASSERT_OK(connected);
    client_ = *std::move(connected);
  }

  void TearDown() override {
    client_.reset();
    daemon_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Crash() {
    daemon_->End(SIGKILL);
    daemon_->Start();
  }

  std::filesystem::path folder_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Client> client_;
};

// A job whose parameters are a function of its steps alone.
class Job {
 public:
  Job(Client& client, const StreamOptions& options = {})
      : client_(client), options_(options), parameters_(kElements, 1) {
    v1::SessionSpec spec;
    spec.set_optimizer("adamw");
    v1::ParameterSpec& parameter = *spec.add_parameters();
    parameter.set_name("weight");
    parameter.add_shape(kElements);
    (*spec.mutable_hyperparameters())["learning_rate"] = 0.05;
    auto created = client.CreateSession(spec);
    EXPECT_OK(created);
    session = *std::move(created);
    options_.on_event = [this](const StreamEvent& event) { events.push_back(event.kind); };
    Open();
  }

  void Open() {
    auto opened = client_.OpenStream(session.key(), options_);
    EXPECT_OK(opened);
    stream = *std::move(opened);
  }

  void Run(int steps) {
    for (int i = 0; i < steps; ++i) {
      ++step;
      std::vector<float> gradient(kElements);
      for (size_t k = 0; k < kElements; ++k) {
        const auto noise = static_cast<float>((k * 31 + static_cast<size_t>(step) * 17) % 97);
        gradient[k] = parameters_[k] + noise / 97 - 0.5F;
      }
      const std::span<const float> source = gradient;
      const std::span<float> target = parameters_;
      const auto result = stream->StepAndApply({&source, 1}, {&target, 1});
      ASSERT_OK(result);
      EXPECT_EQ(result->step, step);
    }
  }

  const std::vector<float>& parameters() const { return parameters_; }
  void GoBack(std::vector<float> parameters, int64_t to) {
    parameters_ = std::move(parameters);
    step = to;
    Open();
  }

  CreatedSession session;
  std::unique_ptr<OptimizeStream> stream;
  std::vector<StreamEvent::Kind> events;
  int64_t step = 0;

 private:
  Client& client_;
  StreamOptions options_;
  std::vector<float> parameters_;
};

v1::SessionSpec WithRate(double rate) {
  v1::SessionSpec spec;
  (*spec.mutable_hyperparameters())["learning_rate"] = rate;
  return spec;
}

TEST_F(DaemonTest, AStreamSendsAgainWhatACrashLost) {
  for (const bool in_folder : {false, true}) {
    StreamOptions options;
    if (in_folder) options.replay_folder = folder_;
    Job job(*client_, options), twin(*client_);
    job.Run(5);
    Crash();
    job.Run(4);
    twin.Run(9);
    EXPECT_EQ(job.parameters(), twin.parameters());
    EXPECT_THAT(job.events, ::testing::IsSupersetOf(
                                {StreamEvent::Kind::kReconnected, StreamEvent::Kind::kResent}));
  }
}

TEST_F(DaemonTest, ATrainerGoesBackToThePinOfItsCheckpoint) {
  Job job(*client_), twin(*client_);
  job.Run(4);
  EXPECT_EQ(*job.stream->Snapshot("checkpoint"), 4);
  const std::vector<float> checkpoint = job.parameters();
  job.Run(3);
  Crash();

  const auto session = client_->RewindSession(job.session.key(), "checkpoint");
  ASSERT_OK(session);
  EXPECT_EQ(session->last_step(), 4);
  job.GoBack(checkpoint, 4);
  job.Run(5);
  twin.Run(9);
  EXPECT_EQ(job.parameters(), twin.parameters());
  EXPECT_EQ(ErrorReason(client_->RewindSession(job.session.key(), "other").status()),
            "PIN_NOT_FOUND");
}

TEST_F(DaemonTest, ASnapshotOfAStreamIsOfItsLastStepWhateverACrashLost) {
  Job job(*client_);
  job.Run(4);
  Crash();
  EXPECT_EQ(ErrorReason(client_->SnapshotSession(job.session.key(), {}, 4).status()),
            "NOT_AT_STEP");
  EXPECT_EQ(*job.stream->Snapshot(), 4);
  EXPECT_EQ(client_->GetSession(job.session.session.name())->last_durable_step(), 4);
  EXPECT_EQ(*client_->SnapshotSession(job.session.key()), 4);
}

TEST_F(DaemonTest, ChangedValuesComeAfterTheStepsBeforeThem) {
  Job job(*client_), twin(*client_);
  for (Job* each : {&job, &twin}) {
    each->Run(4);
    const auto session = each->stream->UpdateSession(WithRate(0.3), {"hyperparameters"});
    ASSERT_OK(session);
    EXPECT_EQ(session->spec().hyperparameters().at("learning_rate"), 0.3);
    if (each == &job) Crash();
    each->Run(4);
  }
  EXPECT_EQ(job.parameters(), twin.parameters());
}

TEST_F(DaemonTest, AStateMovesToAnotherSession) {
  Job job(*client_), other(*client_), twin(*client_);
  job.Run(6);
  twin.Run(9);
  std::stringstream state;
  ASSERT_OK(client_->ExportState(job.session.key(), state));
  other.Run(2);
  const auto imported = client_->ImportState(other.session.key(), state);
  ASSERT_OK(imported);
  EXPECT_EQ(imported->last_step(), 6);
  Crash();
  other.GoBack(job.parameters(), 6);
  other.Run(3);
  EXPECT_EQ(other.parameters(), twin.parameters());
}

TEST_F(DaemonTest, ADaemonThatIsAskedToEndKeepsEveryStep) {
  Job job(*client_), twin(*client_);
  job.Run(3);
  ASSERT_OK(client_->Drain());
  EXPECT_EQ(daemon_->Wait(), 0);
  daemon_->Start();
  EXPECT_EQ(client_->GetSession(job.session.session.name())->last_durable_step(), 3);
  job.Run(2);
  twin.Run(5);
  EXPECT_EQ(job.parameters(), twin.parameters());
  EXPECT_THAT(job.events, ::testing::Not(::testing::Contains(StreamEvent::Kind::kResent)));
}

}  // namespace
}  // namespace mnemosyne
