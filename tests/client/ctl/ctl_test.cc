// mnemosynectl as its users run it: arguments in; words, JSON and an exit code out.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/client/testing.h"

namespace mnemosyne {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Output {
  int exit_code = -1;
  std::string text;  // Both outputs together.

  nlohmann::json json() const { return nlohmann::json::parse(text); }
};

// Runs the program by the shell.
Output RunShell(const std::string& command) {
  Output output;
  FILE* const pipe = ::popen((command + " 2>&1").c_str(), "r");
  std::array<char, 4096> buffer;
  while (const size_t size = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    output.text.append(buffer.data(), size);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) output.exit_code = WEXITSTATUS(status);
  return output;
}

class CtlTest : public ::testing::Test {
 protected:
  // Runs mnemosynectl with `arguments` against the daemon.
  Output Run(const std::string& arguments) const {
    return RunShell(MNEMOSYNECTL_PATH " --address " + daemon_.address() + " " + arguments);
  }

  CreatedSession MakeSession() const {
    return *ConnectTo(daemon_)->CreateSession(MakeSpec({2, 3}));
  }

  FakeDaemon daemon_;
};

TEST_F(CtlTest, HealthExitsWithZeroOnlyIfTheDaemonServes) {
  EXPECT_EQ(Run("health").exit_code, 0);

  daemon_.SetServing(false);
  EXPECT_EQ(Run("health").exit_code, 1);

  daemon_.Stop();
  EXPECT_EQ(Run("--timeout 0.2 health").exit_code, 3);
}

TEST_F(CtlTest, SaysWhereNobodyAnswers) {
  const std::string socket = "unix:" + ::testing::TempDir() + "nobody" + std::to_string(getpid());

  const Output output = RunShell(MNEMOSYNECTL_PATH " optimizers --timeout 0.1 --address " + socket);

  EXPECT_EQ(output.exit_code, 3);
  EXPECT_THAT(output.text, HasSubstr("no daemon answers at " + socket));
}

TEST_F(CtlTest, AWrongCommandLineExitsWithTwo) {
  for (const char* arguments :
       {"", "dance", "health --loud", "sessions", "sessions show", "bench --parameters many",
        "bench --steps 5 --seconds 5", "bench --parameters 5 --tensors 6", "--timeout -1 health",
        "--address host:port health", "bench --encoding int8"}) {
    EXPECT_EQ(Run(arguments).exit_code, 2) << arguments;
  }
}

TEST_F(CtlTest, HelpNeedsNoDaemonAndTellsTheExitCodes) {
  daemon_.Stop();

  const Output output = Run("--help");

  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.text, HasSubstr("Exit codes:"));
  for (const char* command :
       {"optimizers", "models", "reload", "sessions", "bench", "health", "version"}) {
    EXPECT_THAT(output.text, HasSubstr(command));
    EXPECT_EQ(Run(std::string(command) + " --help").exit_code, 0);
  }
  EXPECT_EQ(Run("--version").exit_code, 0);
}

TEST_F(CtlTest, ShowsBothVersions) {
  const Output output = Run("version");
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.text, HasSubstr("9.8.7"));

  const auto json = Run("version --json").json();
  EXPECT_EQ(json["daemon"]["version"], "9.8.7");
  EXPECT_TRUE(json["client"]["version"].is_string());
}

TEST_F(CtlTest, ListsModelsWithTheirHashes) {
  const Output output = Run("models");
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.text, HasSubstr("lstm"));
  EXPECT_THAT(output.text, HasSubstr("c0ffee"));
  EXPECT_THAT(output.text, Not(HasSubstr("adamw")));
  EXPECT_EQ(Run("models --json").json()["models"].size(), 1);
}

TEST_F(CtlTest, TellsWhatAReloadChanged) {
  const Output output = Run("reload");
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_EQ(output.text, "loaded lstm 2 f00d\nrefused lstm 3: truncated\n");
  EXPECT_EQ(Run("reload --json").json()["loaded"][0]["version"], "2");
}

TEST_F(CtlTest, ListsOptimizersAndShowsOne) {
  EXPECT_THAT(Run("optimizers").text, HasSubstr("adamw"));
  EXPECT_THAT(Run("optimizers sgd").text, HasSubstr("learning_rate"));
  EXPECT_THAT(Run("optimizers sgd").text, Not(HasSubstr("adamw")));

  const auto json = Run("--json optimizers").json();
  EXPECT_EQ(json["optimizers"].size(), 3);
  EXPECT_EQ(json["optimizers"][0]["hyperparameters"][0]["maximum"], "Infinity");
  EXPECT_EQ(json["optimizers"][0]["state_bytes_per_element"], 8);
}

TEST_F(CtlTest, AnUnknownOptimizerIsRefusedWithThoseThereAre) {
  const Output output = Run("optimizers lino");

  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.text, HasSubstr("adamw, lstm, sgd"));
}

TEST_F(CtlTest, ListsSessions) {
  EXPECT_THAT(Run("sessions list").text, HasSubstr("no sessions"));
  EXPECT_EQ(Run("sessions list --json").json()["sessions"].size(), 0);

  MakeSession();
  MakeSession();

  EXPECT_THAT(Run("sessions list").text, HasSubstr("sessions/2"));
  const auto json = Run("sessions list --json").json();
  EXPECT_EQ(json["sessions"].size(), 2);
  EXPECT_EQ(json["sessions"][1]["last_step"], 0);
}

TEST_F(CtlTest, ShowsASessionWithAndWithoutItsPrefix) {
  MakeSession();

  EXPECT_THAT(Run("sessions show sessions/1").text, HasSubstr("parameter2"));
  EXPECT_EQ(Run("sessions show 1 --json").json()["spec"]["parameters"][1]["shape"][0], 3);
}

TEST_F(CtlTest, ASessionThatDoesNotExistIsRefused) {
  const Output output = Run("--json sessions show none");

  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.json()["error"]["reason"], "SESSION_NOT_FOUND");
  EXPECT_EQ(output.json()["error"]["code"], "NOT_FOUND");
}

TEST_F(CtlTest, DeletesASessionByItsToken) {
  const CreatedSession first = MakeSession();
  const CreatedSession second = MakeSession();

  const Output refused = Run("sessions delete " + first.session.name());
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.text, HasSubstr("WRONG_TOKEN"));
  EXPECT_EQ(daemon_.session_count(), 2);

  EXPECT_EQ(Run("sessions delete " + first.session.name() + " --token " + first.token).exit_code,
            0);
  EXPECT_EQ(daemon_.session_count(), 1);

  ASSERT_EQ(::setenv("MNEMOSYNE_TOKEN", second.token.c_str(), 1), 0);
  EXPECT_EQ(Run("sessions delete 2").exit_code, 0);
  ::unsetenv("MNEMOSYNE_TOKEN");
  EXPECT_EQ(daemon_.session_count(), 0);
}

TEST_F(CtlTest, BenchStepsASessionAndDeletesIt) {
  const Output output = Run("bench --parameters 1e4 --tensors 7 --steps 12 --warmup 2 --json");

  ASSERT_EQ(output.exit_code, 0) << output.text;
  const auto json = output.json();
  EXPECT_EQ(json["steps"], 12);
  EXPECT_EQ(json["parameters"], 10'000);
  EXPECT_GT(json["steps_per_second"], 0);
  EXPECT_GT(json["gradient_gb_per_second"], 0);
  EXPECT_GE(json["step_seconds"]["p99"], json["step_seconds"]["p50"]);
  EXPECT_EQ(daemon_.applied_count(), 14);
  EXPECT_EQ(daemon_.session_count(), 0);
}

TEST_F(CtlTest, BenchStepsSeveralSessionsAtOnce) {
  const Output output = Run("bench --parameters 100 --tensors 1 --steps 5 --streams 3");

  EXPECT_EQ(output.exit_code, 0) << output.text;
  EXPECT_THAT(output.text, HasSubstr("15 steps in"));
  EXPECT_THAT(output.text, HasSubstr("P99"));
  EXPECT_EQ(daemon_.session_count(), 0);
}

TEST_F(CtlTest, BenchDeletesItsSessionWhenAStepFails) {
  daemon_.Inject(Fault::kNonFinite);

  const Output output = Run("bench --parameters 100 --tensors 1 --steps 5 --json");

  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.json()["error"]["reason"], "NON_FINITE");
  EXPECT_EQ(daemon_.session_count(), 0);
}

TEST_F(CtlTest, BenchWithAnUnknownOptimizerIsRefused) {
  EXPECT_EQ(Run("bench --optimizer lino --steps 1").exit_code, 1);
}

}  // namespace
}  // namespace mnemosyne
