#include "optim/classic/adam.h"

#include <cmath>
#include <limits>
#include <vector>

#include "optim/arena_optimizer.h"

namespace mnemosyne::optim {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kBelowOne = 1 - std::numeric_limits<double>::epsilon() / 2;

// Positions in the table below.
enum : size_t { kLearningRate, kBeta1, kBeta2, kEpsilon, kMaximize, kWeightDecay, kCount };

struct Table {
  HyperparameterSpec specs[kCount];
};

constexpr Table MakeTable(double weight_decay) {
  return {{
      {"learning_rate", 1e-3, 0, kInfinity, "Size of a step of an element."},
      {"beta1", 0.9, 0, kBelowOne, "Share of the mean of gradients that is kept."},
      {"beta2", 0.999, 0, kBelowOne, "Share of the mean of squared gradients that is kept."},
      {"epsilon", 1e-8, 0, kInfinity, "Added to the denominator."},
      {"maximize", 0, 0, 1, "Whether to climb rather than descend.", true},
      {"weight_decay", weight_decay, 0, kInfinity,
       "Decoupled: parameters shrink by learning_rate * this."},
  }};
}

constexpr Table kAdamTable = MakeTable(0);
constexpr Table kAdamWTable = MakeTable(0.01);

constexpr SlotSpec kSlots[] = {{"exp_avg"}, {"exp_avg_sq"}};

// Computed in double and rounded once, as in PyTorch.
kernels::AdamCoefficients MakeCoefficients(const GroupStep& group, int64_t clock) {
  const double beta1 = group.values[kBeta1];
  const double beta2 = group.values[kBeta2];
  const double steps = static_cast<double>(clock);
  const double bias_correction1 = 1 - std::pow(beta1, steps);
  const double bias_correction2 = 1 - std::pow(beta2, steps);
  kernels::AdamCoefficients coefficients;
  coefficients.beta1 = static_cast<float>(beta1);
  coefficients.one_minus_beta1 = static_cast<float>(1 - beta1);
  coefficients.beta2 = static_cast<float>(beta2);
  coefficients.one_minus_beta2 = static_cast<float>(1 - beta2);
  coefficients.bias_correction2_sqrt = static_cast<float>(std::sqrt(bias_correction2));
  coefficients.epsilon = static_cast<float>(group.values[kEpsilon]);
  coefficients.negative_step_size = static_cast<float>(-(group.learning_rate / bias_correction1));
  return coefficients;
}

class Adam final : public ArenaOptimizer {
 public:
  Adam(const OptimizerInfo& info, kernels::Backend& backend)
      : ArenaOptimizer(info, kSlots, backend) {}

  UpdateRule Rule(const GroupStep& group) const override {
    return {group.learning_rate * group.values[kWeightDecay], 1};
  }

 private:
  absl::Status Run(std::span<const Step> steps) override {
    return backend_.AdamSteps(
        BindSteps(steps, kMaximize, coefficients_, MakeCoefficients,
                  [](const Step& step, std::span<const kernels::AdamCoefficients> coefficients) {
                    return kernels::AdamStepArgs{step.segments,
                                                 coefficients,
                                                 step.values,
                                                 step.state.arena<float>(0),
                                                 step.state.arena<float>(1),
                                                 step.square_sums,
                                                 step.replay};
                  }));
  }

  std::vector<kernels::AdamCoefficients> coefficients_;  // Workspace.
};

}  // namespace

const OptimizerInfo kAdamInfo = {
    "adam", "1", "Adam: a mean of gradients over the root of a mean of their squares.",
    kAdamTable.specs, 2 * sizeof(float)};

const OptimizerInfo kAdamWInfo = {"adamw", "1", "Adam with decoupled weight decay.",
                                  kAdamWTable.specs, 2 * sizeof(float)};

std::unique_ptr<Optimizer> MakeAdam(kernels::Backend& backend) {
  return std::make_unique<Adam>(kAdamInfo, backend);
}

std::unique_ptr<Optimizer> MakeAdamW(kernels::Backend& backend) {
  return std::make_unique<Adam>(kAdamWInfo, backend);
}

}  // namespace mnemosyne::optim
