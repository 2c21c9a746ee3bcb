// mnemosyned: arguments to ServerConfig to Server; signals; nothing else.
#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "server/config/server_config.h"
#include "server/listen_check.h"
#include "server/server.h"
#include "server/telemetry/log.h"
#include "server/telemetry/version.h"

namespace mnemosyne::server {
namespace {

constexpr int kExitRefused = 1;  // The options are well-formed but cannot be met.
constexpr int kExitForced = 3;   // A second signal cut the shutdown short.

// The signals that end the daemon, and the one that reloads models. They are blocked in every
// thread and waited for in main.
sigset_t EndingSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}
sigset_t AllSignals() {
  sigset_t signals = EndingSignals();
  sigaddset(&signals, SIGHUP);
  return signals;
}

// Writes the file aside and renames it, so that a reader never sees half of it.
absl::Status WriteReadyFile(const Server& server) {
  const std::string& path = server.config().ready_file;
  const nlohmann::json ready = {
      {"pid", getpid()}, {"listen", server.addresses()}, {"socket", server.config().socket}};
  const std::string aside = path + ".new";
  std::ofstream file(aside);
  file << ready.dump() << "\n";
  file.close();
  if (!file) return FailedPrecondition("--ready-file {}: cannot be written", path);
  std::error_code error;
  std::filesystem::rename(aside, path, error);
  if (error) return FailedPrecondition("--ready-file {}: {}", path, error.message());
  return absl::OkStatus();
}

// Messages of a megabyte come and go all the time: their memory stays in the process instead of
// being mapped, zeroed and given back for each. Debian's abseil, which gRPC uses, looks for lock
// cycles at run time, which is for tests.
void TuneProcess() {
  constexpr int kKeptBytes = 64 << 20;
  mallopt(M_MMAP_THRESHOLD, kKeptBytes / 2);
  mallopt(M_TRIM_THRESHOLD, kKeptBytes);
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
}

// Waits for a signal that ends the daemon; reloads models meanwhile.
int WaitForEnd(Server& server) {
  const sigset_t signals = AllSignals();
  while (true) {
    int signal = 0;
    sigwait(&signals, &signal);
    if (signal != SIGHUP) return signal;
    Log(spdlog::level::info, "reloading models", {{"signal", strsignal(signal)}});
    server.ReloadSecurity();
    server.models().Reload();
  }
}

// Waits for a signal, then lets the server drain; a second signal ends the process at once.
void ServeUntilSignalled(Server& server) {
  const sigset_t signals = EndingSignals();
  const int signal = WaitForEnd(server);
  Log(spdlog::level::info, "shutting down",
      {{"signal", strsignal(signal)}, {"drain_seconds", server.config().drain_seconds}});
  std::atomic<bool> drained = false;
  bool clean = false;
  std::thread drain([&] {
    clean = server.Drain();
    drained = true;
  });
  while (!drained) {
    constexpr timespec kPoll{0, 20'000'000};
    if (sigtimedwait(&signals, nullptr, &kPoll) > 0) {
      Log(spdlog::level::warn, "second signal, exiting at once");
      _exit(kExitForced);
    }
  }
  drain.join();
  if (clean) return;
  // All is kept; what hangs, or may hang, cannot be taken apart.
  if (!server.config().ready_file.empty()) std::filesystem::remove(server.config().ready_file);
  std::_Exit(0);
}

// What gRPC says of itself, such as each failed handshake, is for who looks for it: strangers must
// not fill the log.
void LogOfGrpc(gpr_log_func_args* args) {
  Log(spdlog::level::debug, "grpc", {{"detail", args->message}});
}

// So is what protobuf says of each message that it cannot read.
void LogOfProtobuf(google::protobuf::LogLevel, const char*, int, const std::string& message) {
  Log(spdlog::level::debug, "protobuf", {{"detail", message}});
}

std::string DeviceNames(const DeviceSet& devices) {
  std::vector<std::string> names;
  for (size_t i = 0; i < devices.size(); ++i) names.push_back(devices[i].device_name());
  return fmt::format("{}", fmt::join(names, ","));
}

absl::Status Run(ServerConfig config) {
  MNEMO_RETURN_IF_ERROR(CompleteConfig(config));
  if (!config.ready_file.empty()) {
    MNEMO_RETURN_IF_ERROR(CheckWritableFile(config.ready_file, "--ready-file"));
  }
  SetUpLogging(spdlog::level::from_str(config.log_level),
               config.log_format == "json" ? LogFormat::kJson : LogFormat::kText);
  gpr_set_log_function(&LogOfGrpc);
  google::protobuf::SetLogHandler(&LogOfProtobuf);
  MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::Start(config, Clock::Real()));
  if (!config.ready_file.empty()) MNEMO_RETURN_IF_ERROR(WriteReadyFile(*server));
  Log(spdlog::level::info, "serving",
      {{"version", kVersion},
       {"commit", kCommit},
       {"listen", fmt::format("{}", fmt::join(server->addresses(), ","))},
       {"socket", config.socket},
       {"models", fmt::format("{}", fmt::join(server->config().models, ","))},
       {"device", DeviceNames(server->devices())},
       {"description", server->devices()[0].device_description()},
       {"memory_max", config.memory_max},
       {"pid", getpid()}});
  ServeUntilSignalled(*server);
  if (!config.ready_file.empty()) std::filesystem::remove(config.ready_file);
  Log(spdlog::level::info, "stopped");
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app(
      "mnemosyned hosts optimizers for training jobs: they push gradients over gRPC and get\n"
      "parameter updates back. Without options it serves 127.0.0.1:7717 and computes on a GPU if\n"
      "there is one, else on all cores.\n",
      "mnemosyned");
  app.set_version_flag("--version",
                       std::string("mnemosyned ") + kVersion + (*kCommit ? " " : "") + kCommit);
  app.footer(
      "Signals: SIGTERM and SIGINT finish the steps in hand and exit 0; a second one exits at\n"
      "once. SIGHUP reads models, certificates and the access file again, and opens the audit log\n"
      "anew. Exit codes: 0 stopped as asked, 1 an option cannot be met, 3 a second signal, 100 "
      "and\n"
      "above a bad flag.");
  ServerConfig config;
  AddOptions(app, config);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ConfigError& error) {
    std::cerr << "mnemosyned: the --config file has a line that is no option: " << error.what()
              << "\nRun with --help for the names of options.\n";
    return error.get_exit_code();
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }

  TuneProcess();
  const sigset_t signals = AllSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const absl::Status status = Run(config);
  if (!status.ok()) {
    std::cerr << "mnemosyned: " << ErrorMessage(status) << "\n";
    return kExitRefused;
  }
  return 0;
}

}  // namespace
}  // namespace mnemosyne::server

int main(int argc, char** argv) { return mnemosyne::server::Main(argc, argv); }
