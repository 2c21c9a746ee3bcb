// All that decides how a session steps, checked and with its values resolved.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "optim/gradient_policy.h"
#include "optim/hyperparameters.h"
#include "optim/learning_rate_schedule.h"
#include "optim/optimizer.h"
#include "optim/parameter_spec.h"

namespace mnemosyne::server {

// Parameters that share hyper-parameters.
struct GroupSpec {
  std::string name;
  std::map<std::string, double> hyperparameters;
};

// When a step counts as safe from a crash of the daemon.
enum class Durability {
  kSnapshot,  // With the next snapshot.
  kStep,      // Before it is answered: its gradient is logged.
};

// What a client asks for. Plain values, not checked yet.
struct SessionSpec {
  std::string optimizer;
  std::string optimizer_version;  // Empty for the newest.
  std::string weights_hash;       // Empty for any.
  std::vector<optim::ParameterSpec> parameters;
  std::vector<GroupSpec> groups;  // None is one group without values of its own.
  std::map<std::string, double> hyperparameters;
  optim::LearningRateSchedule schedule;
  optim::GradientPolicy policy;
  std::optional<int64_t> horizon;
  std::string label;
  Durability durability = Durability::kSnapshot;
  optim::StatePrecision state_precision = optim::StatePrecision::kFull;
};

// The most bytes of a label and of a group's name.
inline constexpr size_t kLabelBytesMax = 256;

// The part of a spec that may change between steps, with every hyper-parameter filled in. A step
// keeps the rules that were in force when it began.
struct StepRules {
  std::vector<optim::HyperparameterValues> groups;  // [groups], in the order of the table.
  optim::LearningRateSchedule schedule;
  optim::GradientPolicy policy;
  std::optional<int64_t> horizon;
  std::shared_ptr<const SessionSpec> spec;  // That they came from, without its parameters.
};

// Checks the groups, the schedule, the policy and the label, and fills in a first group. Whether
// there is such an optimizer is another question. InvalidArgument with reason INVALID_SPEC.
absl::Status CheckSessionSpec(SessionSpec& spec);

// The rules of a checked spec. InvalidArgument for a hyper-parameter that the optimizer lacks or
// that is out of its bounds.
absl::StatusOr<std::shared_ptr<const StepRules>> ResolveRules(const SessionSpec& spec,
                                                              const optim::OptimizerInfo& info);

}  // namespace mnemosyne::server
