#include <fmt/format.h>

#include "base/status_macros.h"
#include "client/cpp/ctl/command.h"
#include "client/cpp/ctl/json.h"

namespace mnemosyne::ctl {
namespace {

absl::Status Run(const GlobalOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const auto client, Connect(options));
  MNEMO_RETURN_IF_ERROR(client->CheckHealth());
  if (options.json) {
    PrintJson({{"status", "SERVING"}});
  } else {
    fmt::print("serving\n");
  }
  return absl::OkStatus();
}

}  // namespace

void AddHealthCommand(CLI::App& app, const GlobalOptions& options, Action& action) {
  app.add_subcommand("health", "Ask whether the daemon serves: exit code 0 if it does")
      ->callback([&] { action = [&] { return Run(options); }; });
}

}  // namespace mnemosyne::ctl
