// What happens to gradients before an optimizer sees them: elements that are not finite, and
// clipping by norm. Pure arithmetic on statistics; the device has already measured the gradients.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/gradient_statistics.h"
#include "optim/parameter_spec.h"
#include "optim/step_plan.h"

namespace mnemosyne::optim {

enum class NonFinitePolicy { kReject, kSkip, kZero };

struct GradientPolicy {
  NonFinitePolicy non_finite = NonFinitePolicy::kReject;
  std::optional<double> global_norm_max;  // Above 0.
  std::optional<double> tensor_norm_max;  // Above 0; applied before the global bound.

  // InvalidArgument for a bound that is not above 0 and finite.
  absl::Status Check() const;
};

// What the policy made of a step.
struct GradientVerdict {
  double gradient_norm = 0;  // Of all finite elements that were sent, before clipping.
  double clip_factor = 1;    // Of global clipping.
  int64_t non_finite_count = 0;
  std::vector<size_t> skipped;   // Parameters left out by kSkip.
  bool zero_non_finite = false;  // The device must zero such elements before the step.
};

// Applies the policy: `statistics` [parameters] were measured on the gradients of the parameters
// that take part in `plan`; sets takes_part and gradient_scale there. InvalidArgument with reason
// NON_FINITE, naming the first parameter at fault, if the policy is kReject.
absl::StatusOr<GradientVerdict> ApplyGradientPolicy(
    const GradientPolicy& policy, std::span<const kernels::GradientStatistics> statistics,
    std::span<const ParameterSpec> parameters, StepPlan& plan);

}  // namespace mnemosyne::optim
