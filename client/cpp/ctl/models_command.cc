#include <fmt/format.h>

#include "base/status_macros.h"
#include "client/cpp/ctl/command.h"
#include "client/cpp/ctl/json.h"
#include "client/cpp/ctl/text.h"

namespace mnemosyne::ctl {
namespace {

absl::Status RunList(const GlobalOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const auto client, Connect(options));
  MNEMO_ASSIGN_OR_RETURN(auto models, client->ListOptimizers());
  std::erase_if(models, [](const v1::Optimizer& optimizer) { return !optimizer.learned(); });
  if (options.json) {
    auto list = nlohmann::ordered_json::array();
    for (const v1::Optimizer& model : models) list.push_back(ToJson(model));
    PrintJson({{"models", list}});
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {
      {"NAME", "VERSION", "DEFAULT", "STATE BYTES/ELEMENT", "WEIGHTS"}};
  for (size_t i = 0; i < models.size(); ++i) {
    // Versions of a name come oldest first.
    const bool newest = i + 1 == models.size() || models[i + 1].name() != models[i].name();
    rows.push_back({models[i].name(), models[i].version(), newest ? "yes" : "no",
                    FormatNumber(models[i].state_bytes_per_element()), models[i].weights_hash()});
  }
  fmt::print("{}", FormatTable(rows));
  return absl::OkStatus();
}

void PrintChange(std::string_view what,
                 const google::protobuf::RepeatedPtrField<v1::ModelVersion>& models) {
  for (const v1::ModelVersion& model : models) {
    fmt::print("{} {} {} {}\n", what, model.name(), model.version(), model.weights_hash());
  }
}

absl::Status RunReload(const GlobalOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const auto client, Connect(options));
  MNEMO_ASSIGN_OR_RETURN(const v1::ReloadModelsResponse response, client->ReloadModels());
  if (options.json) {
    PrintJson(ToJson(response));
    return absl::OkStatus();
  }
  PrintChange("retired", response.retired());
  PrintChange("loaded", response.loaded());
  for (const v1::RefusedModel& model : response.refused()) {
    fmt::print("refused {} {}: {}\n", model.name(), model.version(), model.reason());
  }
  if (response.retired().empty() && response.loaded().empty()) fmt::print("nothing changed\n");
  return absl::OkStatus();
}

}  // namespace

void AddModelsCommand(CLI::App& app, const GlobalOptions& options, Action& action) {
  app.add_subcommand("models", "List the meta-trained weights that sessions can name")
      ->callback([&] { action = [&] { return RunList(options); }; });
}

void AddReloadCommand(CLI::App& app, const GlobalOptions& options, Action& action) {
  app.add_subcommand("reload", "Let the daemon read its folders of models again")->callback([&] {
    action = [&] { return RunReload(options); };
  });
}

}  // namespace mnemosyne::ctl
