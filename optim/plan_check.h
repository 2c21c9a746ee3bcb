// Whether a plan is of a layout.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "optim/parameter_spec.h"
#include "optim/step_plan.h"

namespace mnemosyne::optim {

// Internal unless `plan` has all parameters of `layout` and their groups, and `square_sums` as many
// elements; the message says what is missing.
absl::Status CheckPlan(const ParameterLayout& layout, const StepPlan& plan,
                       std::span<const double> square_sums);

}  // namespace mnemosyne::optim
