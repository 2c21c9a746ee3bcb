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
  void UpdateMany(std::span<SharedStep> steps) final;
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

  // Runs the op of all steps: of one at a time, unless the rule has one for several.
  virtual absl::Status Run(std::span<const Step> steps) = 0;
  virtual bool runs_many() const { return true; }

  // Appends what make(group, clock) returns for each parameter of `step` to `coefficients`, calling
  // it once for neighbours that share both, since powers are dear. The gradient scale is set here;
  // its sign is turned where the group's value at position `maximize` is not 0.
  template <typename Coefficients, typename Make>
  static void FillCoefficients(const Step& step, size_t maximize,
                               std::vector<Coefficients>& coefficients, const Make& make);

  // The same for all steps, one behind the other, in place of what was in `coefficients`; then
  // the arguments of the op on each, by bind(step, its coefficients).
  template <typename Coefficients, typename Make, typename Bind>
  static auto BindSteps(std::span<const Step> steps, size_t maximize,
                        std::vector<Coefficients>& coefficients, const Make& make,
                        const Bind& bind);

  kernels::Backend& backend_;

 private:
  // What a step works with until it is done.
  struct Work {
    std::vector<size_t> parameters;
    std::vector<kernels::Segment> segments;
    std::vector<kernels::Segment> idle;
    std::vector<double> square_sums;
  };

  void Take(std::span<SharedStep> steps, bool replay);
  absl::Status Begin(const SharedStep& step, Work& work);
  void End(const SharedStep& step, const Work& work) const;

  const OptimizerInfo& info_;
  const std::span<const SlotSpec> slots_;

  // Workspace, kept from step to step.
  std::vector<Work> works_;
  std::vector<Step> steps_;
  std::vector<size_t> begun_;  // Positions of steps_ among those that share.
};

template <typename Coefficients, typename Make>
void ArenaOptimizer::FillCoefficients(const Step& step, size_t maximize,
                                      std::vector<Coefficients>& coefficients, const Make& make) {
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

template <typename Coefficients, typename Make, typename Bind>
auto ArenaOptimizer::BindSteps(std::span<const Step> steps, size_t maximize,
                               std::vector<Coefficients>& coefficients, const Make& make,
                               const Bind& bind) {
  coefficients.clear();
  for (const Step& step : steps) FillCoefficients(step, maximize, coefficients, make);
  std::vector<decltype(bind(steps[0], std::span<const Coefficients>()))> all;
  all.reserve(steps.size());
  std::span<const Coefficients> left = coefficients;
  for (const Step& step : steps) {
    all.push_back(bind(step, left.first(step.parameters.size())));
    left = left.subspan(step.parameters.size());
  }
  return all;
}

}  // namespace mnemosyne::optim
