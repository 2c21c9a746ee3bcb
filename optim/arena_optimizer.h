// What the optimizers share that treat every element alike: a state of arenas, and a step that is
// one op over the parameters that take part.
#pragma once

#include <span>
#include <vector>

#include "kernels/backend.h"
#include "optim/arena_state.h"
#include "optim/optimizer.h"

namespace mnemosyne::optim {

class ArenaOptimizer : public Optimizer {
 public:
  const OptimizerInfo& info() const final { return info_; }
  size_t StateBytes(const ParameterLayout& layout) const final;
  absl::StatusOr<std::unique_ptr<OptimizerState>> Init(const ParameterLayout& layout) final;
  absl::Status Update(OptimizerState& state, const StepPlan& plan, float* values,
                      std::span<double> square_sums) final;
  absl::Status Replay(const OptimizerState& state, const StepPlan& plan, float* values,
                      std::span<double> square_sums) final;

 protected:
  // The part of a step that is the optimizer's own.
  struct Step {
    const ArenaState& state;
    const StepPlan& plan;
    std::span<const size_t> parameters;          // [k]: those that take part.
    std::span<const kernels::Segment> segments;  // [k]: their elements.
    float* values;
    std::span<double> square_sums;  // [k]: of updates, without their scale.
    bool replay;
  };

  // `info`, `slots` and `backend` outlive the optimizer and its states.
  ArenaOptimizer(const OptimizerInfo& info, std::span<const SlotSpec> slots,
                 kernels::Backend& backend)
      : backend_(backend), info_(info), slots_(slots) {}

  // Runs the op.
  virtual absl::Status Run(const Step& step) = 0;

  // Writes what make(group, clock) returns for each parameter of `step` to `coefficients`, calling
  // it once for neighbours that share both, since powers are dear. The gradient scale is set here;
  // its sign is turned where the group's value at position `maximize` is not 0.
  template <typename Coefficients, typename Make>
  static void FillCoefficients(const Step& step, size_t maximize,
                               std::vector<Coefficients>& coefficients, const Make& make);

  kernels::Backend& backend_;

 private:
  absl::Status Take(const ArenaState& state, const StepPlan& plan, bool replay, float* values,
                    std::span<double> square_sums);

  const OptimizerInfo& info_;
  const std::span<const SlotSpec> slots_;

  // Workspace.
  std::vector<size_t> parameters_;
  std::vector<kernels::Segment> segments_;
  std::vector<kernels::Segment> idle_segments_;
  std::vector<double> step_square_sums_;
};

template <typename Coefficients, typename Make>
void ArenaOptimizer::FillCoefficients(const Step& step, size_t maximize,
                                      std::vector<Coefficients>& coefficients, const Make& make) {
  coefficients.clear();
  coefficients.reserve(step.parameters.size());
  Coefficients current;
  size_t last_group = 0;
  int64_t last_clock = 0;  // That of no step.
  for (const size_t i : step.parameters) {
    const ParameterStep& part = step.plan.parameters[i];
    const size_t position = step.state.layout().parameters()[i].group;
    const GroupStep& group = step.plan.groups[position];
    if (position != last_group || part.clock != last_clock) {
      current = make(group, part.clock);
      last_group = position;
      last_clock = part.clock;
    }
    const bool climbs = group.values[maximize] != 0;
    current.gradient_scale = climbs ? -part.gradient_scale : part.gradient_scale;
    coefficients.push_back(current);
  }
}

}  // namespace mnemosyne::optim
