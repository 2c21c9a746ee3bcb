#include "optim/arena_optimizer.h"

#include <algorithm>

#include "base/status_macros.h"
#include "optim/plan_check.h"

namespace mnemosyne::optim {
size_t ArenaOptimizer::StateBytes(const ParameterLayout& layout) const {
  return ArenaState::ByteCount(layout, slots_);
}

absl::StatusOr<std::unique_ptr<OptimizerState>> ArenaOptimizer::Init(
    const ParameterLayout& layout) {
  return ArenaState::Create(layout, slots_, backend_);
}

absl::Status ArenaOptimizer::Update(OptimizerState& state, const StepPlan& plan, float* values,
                                    std::span<double> square_sums) {
  return Take(static_cast<const ArenaState&>(state), plan, /*replay=*/false, values, square_sums);
}

absl::Status ArenaOptimizer::Replay(const OptimizerState& state, const StepPlan& plan,
                                    float* values, std::span<double> square_sums) {
  return Take(static_cast<const ArenaState&>(state), plan, /*replay=*/true, values, square_sums);
}

absl::Status ArenaOptimizer::Take(const ArenaState& state, const StepPlan& plan, bool replay,
                                  float* values, std::span<double> square_sums) {
  const ParameterLayout& layout = state.layout();
  MNEMO_RETURN_IF_ERROR(CheckPlan(layout, plan, square_sums));
  parameters_.clear();
  segments_.clear();
  idle_segments_.clear();
  for (size_t i = 0; i < layout.runs().size(); ++i) {
    const kernels::Segment segment = {layout.runs()[i].offset, layout.runs()[i].count};
    if (plan.parameters[i].takes_part) {
      parameters_.push_back(i);
      segments_.push_back(segment);
    } else {
      idle_segments_.push_back(segment);
    }
  }

  MNEMO_RETURN_IF_ERROR(backend_.SetZero(idle_segments_, values));
  step_square_sums_.resize(segments_.size());
  MNEMO_RETURN_IF_ERROR(
      Run({state, plan, parameters_, segments_, values, step_square_sums_, replay}));

  std::fill(square_sums.begin(), square_sums.end(), 0.0);
  for (size_t k = 0; k < parameters_.size(); ++k) {
    const size_t i = parameters_[k];
    const double scale = Rule(plan.groups[layout.parameters()[i].group]).scale;
    square_sums[i] = step_square_sums_[k] * scale * scale;
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne::optim
