#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/status_macros.h"
#include "client/cpp/ctl/command.h"
#include "client/cpp/ctl/json.h"
#include "client/cpp/ctl/text.h"

namespace mnemosyne::ctl {
namespace {

void PrintAll(const std::vector<v1::Optimizer>& optimizers) {
  std::vector<std::vector<std::string>> rows = {
      {"NAME", "VERSION", "STATE BYTES/ELEMENT", "LEARNED", "DESCRIPTION"}};
  for (const auto& optimizer : optimizers) {
    rows.push_back({optimizer.name(), optimizer.version(),
                    FormatNumber(optimizer.state_bytes_per_element()),
                    optimizer.learned() ? "yes" : "no", optimizer.description()});
  }
  fmt::print("{}\nShow one with its hyper-parameters: mnemosynectl optimizers NAME\n",
             FormatTable(rows));
}

void PrintOne(const v1::Optimizer& optimizer) {
  fmt::print("{} {}: {}\n", optimizer.name(), optimizer.version(), optimizer.description());
  fmt::print("State: {} bytes an element\n", FormatNumber(optimizer.state_bytes_per_element()));
  if (!optimizer.weights_hash().empty()) fmt::print("Weights: {}\n", optimizer.weights_hash());
  std::vector<std::vector<std::string>> rows = {
      {"HYPER-PARAMETER", "DEFAULT", "LEAST", "GREATEST", "DESCRIPTION"}};
  for (const auto& value : optimizer.hyperparameters()) {
    const auto format = [&](double number) {
      return value.boolean() ? std::string(number != 0 ? "1 (yes)" : "0 (no)")
                             : FormatNumber(number);
    };
    rows.push_back({value.name(), format(value.default_value()), format(value.minimum()),
                    format(value.maximum()), value.description()});
  }
  fmt::print("\n{}", FormatTable(rows));
}

absl::Status Run(const GlobalOptions& options, const std::string& name) {
  MNEMO_ASSIGN_OR_RETURN(const auto client, Connect(options));
  MNEMO_ASSIGN_OR_RETURN(auto optimizers, client->ListOptimizers());
  std::string names;
  for (const auto& optimizer : optimizers) {
    names += (names.empty() ? "" : ", ") + optimizer.name();
  }
  if (!name.empty()) {
    std::erase_if(optimizers, [&](const auto& optimizer) { return optimizer.name() != name; });
    if (optimizers.empty()) {
      return WithReason(NotFound("no optimizer is called '{}'; there are {}", name, names),
                        "UNKNOWN_OPTIMIZER");
    }
  }
  if (options.json) {
    auto list = nlohmann::ordered_json::array();
    for (const auto& optimizer : optimizers) list.push_back(ToJson(optimizer));
    PrintJson({{"optimizers", list}});
  } else if (name.empty()) {
    PrintAll(optimizers);
  } else {
    for (const auto& optimizer : optimizers) PrintOne(optimizer);
  }
  return absl::OkStatus();
}

}  // namespace

void AddOptimizersCommand(CLI::App& app, const GlobalOptions& options, Action& action) {
  auto* const command = app.add_subcommand("optimizers", "List the optimizers of the daemon");
  const auto name = std::make_shared<std::string>();
  command->add_option("name", *name, "Show this one with its hyper-parameters");
  command->callback(
      [&options, &action, name] { action = [&options, name] { return Run(options, *name); }; });
}

}  // namespace mnemosyne::ctl
