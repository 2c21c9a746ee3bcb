#include <fmt/format.h>

#include "base/status_macros.h"
#include "client/cpp/ctl/command.h"
#include "client/cpp/ctl/json.h"
#include "client/cpp/ctl/text.h"

namespace mnemosyne::ctl {
namespace {

// What an admin is told of a device, where there is something: its steps, and how full its own
// memory is; and whether it failed.
std::string Describe(const v1::Device& device) {
  std::string words;
  if (device.step_count() > 0) words = fmt::format(", {} steps", FormatCount(device.step_count()));
  if (device.reserved_bytes_max() > 0) {
    words +=
        fmt::format(", {} of at most {}", FormatBytes(static_cast<double>(device.reserved_bytes())),
                    FormatBytes(static_cast<double>(device.reserved_bytes_max())));
  }
  if (!device.fault().empty()) words += "; " + device.fault();
  return words;
}

void Print(const v1::GetServerInfoResponse& info) {
  std::vector<std::pair<std::string, std::string>> rows = {
      {"mnemosynectl", MNEMOSYNE_VERSION},
      {"daemon", info.version() + (info.commit().empty() ? "" : " (" + info.commit() + ")")},
      {"protocol", "revision " + std::to_string(info.protocol_revision())},
      {"started", FormatAge(info.start_time())},
      {"sessions", fmt::format("{} of at most {}", FormatCount(info.session_count()),
                               FormatCount(info.session_count_max()))},
      {"memory",
       fmt::format("{} of at most {}", FormatBytes(static_cast<double>(info.reserved_bytes())),
                   FormatBytes(static_cast<double>(info.reserved_bytes_max())))},
  };
  for (const auto& device : info.devices()) {
    rows.emplace_back(
        "device", fmt::format("{} ({}){}", device.name(), device.description(), Describe(device)));
  }
  fmt::print("{}", FormatList(rows));
}

absl::Status Run(const GlobalOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const auto client, Connect(options));
  MNEMO_ASSIGN_OR_RETURN(const auto info, client->GetServerInfo());
  if (options.json) {
    PrintJson({{"client", {{"version", MNEMOSYNE_VERSION}}}, {"daemon", ToJson(info)}});
  } else {
    Print(info);
  }
  return absl::OkStatus();
}

}  // namespace

void AddVersionCommand(CLI::App& app, const GlobalOptions& options, Action& action) {
  app.set_version_flag("--version", "mnemosynectl " MNEMOSYNE_VERSION,
                       "Print the version of this program and exit");
  app.add_subcommand("version", "Show the versions of this program and of the daemon, and its use")
      ->callback([&] { action = [&] { return Run(options); }; });
}

}  // namespace mnemosyne::ctl
