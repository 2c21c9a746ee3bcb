#include "server/session/session_spec.h"

#include <algorithm>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::server {
namespace {

absl::Status InvalidSpec(absl::Status status) {
  return WithReason(std::move(status), "INVALID_SPEC");
}

}  // namespace

absl::Status CheckSessionSpec(SessionSpec& spec) {
  if (spec.groups.empty()) spec.groups.emplace_back();
  for (const optim::ParameterSpec& parameter : spec.parameters) {
    if (parameter.group >= spec.groups.size()) {
      return InvalidSpec(InvalidArgument(
          "parameter {:?} names group {}, but the session has {} groups, numbered from 0",
          parameter.name, parameter.group, spec.groups.size()));
    }
  }
  for (const GroupSpec& group : spec.groups) {
    if (group.name.size() > kLabelBytesMax) {
      return InvalidSpec(InvalidArgument("the name of a group has {} bytes, the most is {}",
                                         group.name.size(), kLabelBytesMax));
    }
  }
  if (spec.label.size() > kLabelBytesMax) {
    return InvalidSpec(InvalidArgument("the label has {} bytes, the most is {}", spec.label.size(),
                                       kLabelBytesMax));
  }
  if (const absl::Status status = spec.schedule.Check(); !status.ok()) return InvalidSpec(status);
  if (const absl::Status status = spec.policy.Check(); !status.ok()) return InvalidSpec(status);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const StepRules>> ResolveRules(const SessionSpec& spec,
                                                              const optim::OptimizerInfo& info) {
  auto rules = std::make_shared<StepRules>();
  rules->schedule = spec.schedule;
  rules->policy = spec.policy;
  rules->horizon = spec.horizon;
  auto source = std::make_shared<SessionSpec>(spec);
  source->parameters.clear();
  rules->spec = std::move(source);
  for (const GroupSpec& group : spec.groups) {
    MNEMO_ASSIGN_OR_RETURN(optim::HyperparameterValues values,
                           optim::ResolveHyperparameters(info.hyperparameters, spec.hyperparameters,
                                                         group.hyperparameters));
    rules->groups.push_back(std::move(values));
  }
  return std::shared_ptr<const StepRules>(std::move(rules));
}

}  // namespace mnemosyne::server
