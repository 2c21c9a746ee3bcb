#include "optim/plan_check.h"

#include "base/error.h"

namespace mnemosyne::optim {

absl::Status CheckPlan(const ParameterLayout& layout, const StepPlan& plan,
                       std::span<const double> square_sums) {
  const size_t count = layout.parameters().size();
  if (plan.parameters.size() != count || square_sums.size() != count) {
    return Internal("wrong size: plan has {} parameters and square_sums {}, expected {}",
                    plan.parameters.size(), square_sums.size(), count);
  }
  for (const ParameterSpec& parameter : layout.parameters()) {
    if (parameter.group >= plan.groups.size()) {
      return Internal("missing group: parameter {} is in group {}, plan has {}", parameter.name,
                      parameter.group, plan.groups.size());
    }
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne::optim
