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
  SharedStep step = {state, plan, values, square_sums, {}};
  Take({&step, 1}, /*replay=*/false);
  return step.status;
}

void ArenaOptimizer::UpdateMany(std::span<SharedStep> steps) { Take(steps, /*replay=*/false); }

absl::Status ArenaOptimizer::Replay(const OptimizerState& state, const StepPlan& plan,
                                    float* values, std::span<double> square_sums) {
  // A replay leaves the state alone.
  SharedStep step = {const_cast<OptimizerState&>(state), plan, values, square_sums, {}};
  Take({&step, 1}, /*replay=*/true);
  return step.status;
}

absl::Status ArenaOptimizer::Begin(const SharedStep& step, Work& work) {
  const ParameterLayout& layout = static_cast<const ArenaState&>(step.state).layout();
  MNEMO_RETURN_IF_ERROR(CheckPlan(layout, step.plan, step.square_sums));
  work.parameters.clear();
  work.segments.clear();
  work.idle.clear();
  for (size_t i = 0; i < layout.runs().size(); ++i) {
    const kernels::Segment segment = {layout.runs()[i].offset, layout.runs()[i].count};
    if (step.plan.parameters[i].takes_part) {
      work.parameters.push_back(i);
      work.segments.push_back(segment);
    } else {
      work.idle.push_back(segment);
    }
  }
  work.square_sums.resize(work.segments.size());
  return backend_.SetZero(work.idle, step.values);
}

void ArenaOptimizer::End(const SharedStep& step, const Work& work) const {
  const ParameterLayout& layout = static_cast<const ArenaState&>(step.state).layout();
  std::fill(step.square_sums.begin(), step.square_sums.end(), 0.0);
  for (size_t k = 0; k < work.parameters.size(); ++k) {
    const size_t i = work.parameters[k];
    const double scale = Rule(step.plan.groups[layout.parameters()[i].group]).scale;
    step.square_sums[i] = work.square_sums[k] * scale * scale;
  }
}

void ArenaOptimizer::Take(std::span<SharedStep> steps, bool replay) {
  if (works_.size() < steps.size()) works_.resize(steps.size());
  steps_.clear();
  begun_.clear();
  for (size_t k = 0; k < steps.size(); ++k) {
    Work& work = works_[k];
    steps[k].status = Begin(steps[k], work);
    if (!steps[k].status.ok()) continue;
    begun_.push_back(k);
    steps_.push_back({static_cast<const ArenaState&>(steps[k].state), steps[k].plan,
                      work.parameters, work.segments, steps[k].values, work.square_sums, replay});
  }
  if (steps_.empty()) return;
  const bool together = steps_.size() == 1 || runs_many();
  const absl::Status shared = together ? Run(steps_) : absl::OkStatus();
  // Where there is no room for all, there may be for each.
  const bool apart = !together || (steps_.size() > 1 && absl::IsResourceExhausted(shared));
  for (size_t i = 0; i < begun_.size(); ++i) {
    SharedStep& step = steps[begun_[i]];
    step.status = apart ? Run(std::span(steps_).subspan(i, 1)) : shared;
    if (step.status.ok()) End(step, works_[begun_[i]]);
  }
}

}  // namespace mnemosyne::optim
