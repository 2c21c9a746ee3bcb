#include "optim/gradient_policy.h"

#include <cmath>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::optim {
namespace {

absl::Status CheckBound(std::string_view name, const std::optional<double>& bound) {
  if (!bound || (std::isfinite(*bound) && *bound > 0)) return absl::OkStatus();
  return InvalidArgument("wrong bound: {} is {}, expected a finite number above 0", name, *bound);
}

absl::Status RefuseNonFinite(const ParameterSpec& parameter, int64_t count) {
  absl::Status status = WithReason(
      InvalidArgument("gradient not finite: parameter {} has {} elements that are NaN or infinite",
                      parameter.name, count),
      "NON_FINITE");
  return WithMetadata(std::move(status), "parameter", parameter.name);
}

// The factor that brings `norm` down to `bound`.
double ClipFactor(double norm, const std::optional<double>& bound) {
  return bound && norm > *bound ? *bound / norm : 1;
}

}  // namespace

absl::Status GradientPolicy::Check() const {
  MNEMO_RETURN_IF_ERROR(CheckBound("clipping.global_norm", global_norm_max));
  return CheckBound("clipping.tensor_norm", tensor_norm_max);
}

absl::StatusOr<GradientVerdict> ApplyGradientPolicy(
    const GradientPolicy& policy, std::span<const kernels::GradientStatistics> statistics,
    std::span<const ParameterSpec> parameters, StepPlan& plan) {
  if (statistics.size() != parameters.size() || plan.parameters.size() != parameters.size()) {
    return Internal("wrong size: {} statistics and {} parameters in the plan, expected {}",
                    statistics.size(), plan.parameters.size(), parameters.size());
  }
  GradientVerdict verdict;
  double sent_square_sum = 0;
  double clipped_square_sum = 0;  // Of those that take part, after the bound of a tensor.
  std::vector<double> factors(parameters.size(), 1);
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!plan.parameters[i].takes_part) continue;
    const kernels::GradientStatistics& measured = statistics[i];
    sent_square_sum += measured.square_sum;
    verdict.non_finite_count += measured.non_finite_count;
    if (measured.non_finite_count > 0) {
      if (policy.non_finite == NonFinitePolicy::kReject) {
        return RefuseNonFinite(parameters[i], measured.non_finite_count);
      }
      if (policy.non_finite == NonFinitePolicy::kSkip) {
        verdict.skipped.push_back(i);
        continue;
      }
      verdict.zero_non_finite = true;
    }
    factors[i] = ClipFactor(std::sqrt(measured.square_sum), policy.tensor_norm_max);
    clipped_square_sum += factors[i] * factors[i] * measured.square_sum;
  }
  verdict.gradient_norm = std::sqrt(sent_square_sum);
  verdict.clip_factor = ClipFactor(std::sqrt(clipped_square_sum), policy.global_norm_max);

  for (const size_t i : verdict.skipped) plan.parameters[i].takes_part = false;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!plan.parameters[i].takes_part) continue;
    plan.parameters[i].gradient_scale = static_cast<float>(factors[i] * verdict.clip_factor);
  }
  return verdict;
}

}  // namespace mnemosyne::optim
