#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/status_macros.h"
#include "client/cpp/ctl/command.h"
#include "client/cpp/ctl/json.h"
#include "client/cpp/ctl/text.h"

namespace mnemosyne::ctl {
namespace {

// Of a session's parameters, for people; JSON has all of them.
constexpr int kParametersShownMax = 20;

constexpr std::string_view kPrefix = "sessions/";

// The full name of a session, whose prefix may be left out.
std::string FullName(const std::string& name) {
  return name.starts_with(kPrefix) ? name : std::string(kPrefix) + name;
}

std::string Shape(const v1::ParameterSpec& parameter) {
  return fmt::format("[{}]", fmt::join(parameter.shape(), ", "));
}

absl::Status List(const GlobalOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const auto client, Connect(options));
  MNEMO_ASSIGN_OR_RETURN(const auto sessions, client->ListSessions());
  if (options.json) {
    auto list = nlohmann::ordered_json::array();
    for (const auto& session : sessions) list.push_back(ToJson(session));
    PrintJson({{"sessions", list}});
    return absl::OkStatus();
  }
  if (sessions.empty()) {
    fmt::print("no sessions\n");
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {{"NAME", "OPTIMIZER", "ELEMENTS", "STEP", "MEMORY",
                                                 "STREAM", "CREATED", "LAST STEP", "LABEL"}};
  for (const auto& session : sessions) {
    rows.push_back({session.name(), session.spec().optimizer(),
                    FormatCount(session.element_count()), FormatCount(session.last_step()),
                    FormatBytes(static_cast<double>(session.reserved_bytes())),
                    session.streaming() ? "open" : "-", FormatAge(session.create_time()),
                    FormatAge(session.last_step_time()), session.spec().label()});
  }
  fmt::print("{}", FormatTable(rows));
  return absl::OkStatus();
}

void Print(const v1::Session& session) {
  const v1::SessionSpec& spec = session.spec();
  std::vector<std::pair<std::string, std::string>> rows = {
      {"name", session.name()},
      {"label", spec.label()},
      {"optimizer", spec.optimizer() + " " + spec.optimizer_version()},
      {"device", session.device()},
      {"last step", FormatCount(session.last_step())},
      {"last durable step", FormatCount(session.last_durable_step())},
      {"stepped", FormatAge(session.last_step_time())},
      {"created", FormatAge(session.create_time())},
      {"stream", session.streaming() ? "open" : "none"},
      {"epoch", FormatCount(session.epoch())},
      {"elements", FormatCount(session.element_count())},
      {"state", FormatBytes(static_cast<double>(session.state_bytes()))},
      {"memory", FormatBytes(static_cast<double>(session.reserved_bytes()))},
  };
  std::vector<std::pair<std::string, double>> values(spec.hyperparameters().begin(),
                                                     spec.hyperparameters().end());
  std::ranges::sort(values);
  for (const auto& [name, value] : values) rows.emplace_back("  " + name, FormatNumber(value));
  if (!spec.weights_hash().empty()) rows.emplace_back("weights", spec.weights_hash());
  fmt::print("{}", FormatList(rows));

  std::vector<std::vector<std::string>> parameters = {{"PARAMETER", "SHAPE", "GROUP"}};
  const int shown = std::min(spec.parameters_size(), kParametersShownMax);
  for (int i = 0; i < shown; ++i) {
    const auto& parameter = spec.parameters(i);
    parameters.push_back({parameter.name(), Shape(parameter), std::to_string(parameter.group())});
  }
  fmt::print("\n{}", FormatTable(parameters));
  if (shown < spec.parameters_size()) {
    fmt::print("... and {} more; --json has all\n", FormatCount(spec.parameters_size() - shown));
  }
}

absl::Status Show(const GlobalOptions& options, const std::string& name) {
  MNEMO_ASSIGN_OR_RETURN(const auto client, Connect(options));
  MNEMO_ASSIGN_OR_RETURN(const auto session, client->GetSession(FullName(name)));
  if (options.json) {
    PrintJson(ToJson(session));
  } else {
    Print(session);
  }
  return absl::OkStatus();
}

absl::Status Delete(const GlobalOptions& options, const std::string& name,
                    const std::string& token) {
  MNEMO_ASSIGN_OR_RETURN(const auto client, Connect(options));
  MNEMO_RETURN_IF_ERROR(client->DeleteSession({FullName(name), token}));
  if (options.json) {
    PrintJson({{"deleted", FullName(name)}});
  } else {
    fmt::print("deleted {}\n", FullName(name));
  }
  return absl::OkStatus();
}

}  // namespace

void AddSessionsCommand(CLI::App& app, const GlobalOptions& options, Action& action) {
  auto* const sessions = app.add_subcommand("sessions", "List, show and delete sessions");
  sessions->require_subcommand(1);
  sessions->fallthrough();

  sessions->add_subcommand("list", "List all sessions in order of creation")->callback([&] {
    action = [&] { return List(options); };
  });

  auto* const show = sessions->add_subcommand("show", "Show one session");
  const auto shown = std::make_shared<std::string>();
  show->add_option("name", *shown, "The session, with or without `sessions/`")->required();
  show->callback(
      [&options, &action, shown] { action = [&options, shown] { return Show(options, *shown); }; });

  auto* const remove = sessions->add_subcommand(
      "delete", "End a session and free its memory; what its optimizer learned is lost");
  const auto removed = std::make_shared<std::string>();
  const auto token = std::make_shared<std::string>();
  remove->add_option("name", *removed, "The session, with or without `sessions/`")->required();
  remove
      ->add_option("--token", *token,
                   "The session's token; not needed over the daemon's Unix-domain socket")
      ->envname("MNEMOSYNE_TOKEN");
  remove->callback([&options, &action, removed, token] {
    action = [&options, removed, token] { return Delete(options, *removed, *token); };
  });
}

}  // namespace mnemosyne::ctl
