// What the commands of mnemosynectl share: global options, how a command is run, its exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mnemosyne/client.h"

namespace mnemosyne::ctl {

// Exit codes; `mnemosynectl --help` tells them.
enum ExitCode : int {
  kExitOk = 0,
  kExitRefused = 1,      // The daemon said no, or it is not serving.
  kExitUsage = 2,        // The command line is wrong.
  kExitUnreachable = 3,  // No daemon answers, or not in time.
};

// Options before or after any command.
struct GlobalOptions {
  std::string address{kDefaultAddress};
  CredentialFiles credentials;
  double timeout_seconds = 5;
  bool json = false;
};

// What the command line asked for, to be run once it has been parsed whole.
using Action = std::function<absl::Status()>;

// Add a command to `app`, which when it is given sets `action`. `options` and `action` outlive the
// app.
void AddOptimizersCommand(CLI::App& app, const GlobalOptions& options, Action& action);
void AddModelsCommand(CLI::App& app, const GlobalOptions& options, Action& action);
void AddReloadCommand(CLI::App& app, const GlobalOptions& options, Action& action);
void AddSessionsCommand(CLI::App& app, const GlobalOptions& options, Action& action);
void AddAttendCommand(CLI::App& app, const GlobalOptions& options, Action& action);
void AddBenchCommand(CLI::App& app, const GlobalOptions& options, Action& action);
void AddHealthCommand(CLI::App& app, const GlobalOptions& options, Action& action);
void AddTokenCommand(CLI::App& app, const GlobalOptions& options, Action& action);
void AddVersionCommand(CLI::App& app, const GlobalOptions& options, Action& action);

// Connects as the options say. Calls get `call_seconds_min` even if the options say less.
absl::StatusOr<std::unique_ptr<Client>> Connect(const GlobalOptions& options,
                                                double call_seconds_min = 0);

// Marks an error as one of the command line.
absl::Status UsageError(const std::string& message);

// The exit code for how a command ended.
ExitCode ExitCodeOf(const absl::Status& status);

// Tells an error on the standard error output, in words or as JSON.
void PrintError(const absl::Status& status, bool json);

}  // namespace mnemosyne::ctl
