#include "optim/classic/lion.h"

#include <cstdint>
#include <limits>
#include <vector>

#include "optim/arena_optimizer.h"

namespace mnemosyne::optim {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kBelowOne = 1 - std::numeric_limits<double>::epsilon() / 2;

// Positions in the table below.
enum : size_t { kLearningRate, kBeta1, kBeta2, kMaximize, kWeightDecay };

constexpr HyperparameterSpec kHyperparameters[] = {
    {"learning_rate", 1e-4, 0, kInfinity, "Size of a step of every element."},
    {"beta1", 0.9, 0, kBelowOne, "Share of the momentum in the direction."},
    {"beta2", 0.99, 0, kBelowOne, "Share of the momentum that is kept."},
    {"maximize", 0, 0, 1, "Whether to climb rather than descend.", true},
    {"weight_decay", 0, 0, kInfinity, "Decoupled: parameters shrink by learning_rate * this."},
};

constexpr SlotSpec kSlots[] = {{"exp_avg"}, {"signs", kernels::kSignsPerWord}};

class Lion final : public ArenaOptimizer {
 public:
  explicit Lion(kernels::Backend& backend) : ArenaOptimizer(kLionInfo, kSlots, backend) {}

  UpdateRule Rule(const GroupStep& group) const override {
    return {group.learning_rate * group.values[kWeightDecay], -group.learning_rate};
  }

 private:
  absl::Status Run(std::span<const Step> steps) override {
    const auto make = [](const GroupStep& group, int64_t) {
      kernels::LionCoefficients coefficients;
      coefficients.beta1 = static_cast<float>(group.values[kBeta1]);
      coefficients.one_minus_beta1 = static_cast<float>(1 - group.values[kBeta1]);
      coefficients.beta2 = static_cast<float>(group.values[kBeta2]);
      coefficients.one_minus_beta2 = static_cast<float>(1 - group.values[kBeta2]);
      return coefficients;
    };
    return backend_.LionSteps(
        BindSteps(steps, kMaximize, coefficients_, make,
                  [](const Step& step, std::span<const kernels::LionCoefficients> coefficients) {
                    return kernels::LionStepArgs{step.segments,
                                                 coefficients,
                                                 step.values,
                                                 step.state.arena<float>(0),
                                                 step.state.arena<uint32_t>(1),
                                                 step.square_sums,
                                                 step.replay};
                  }));
  }

  std::vector<kernels::LionCoefficients> coefficients_;  // Workspace.
};

}  // namespace

const OptimizerInfo kLionInfo = {
    "lion", "1", "Lion: the sign of a mean of gradients, with decoupled weight decay.",
    kHyperparameters,
    sizeof(float) + static_cast<double>(sizeof(uint32_t)) / kernels::kSignsPerWord};

std::unique_ptr<Optimizer> MakeLion(kernels::Backend& backend) {
  return std::make_unique<Lion>(backend);
}

}  // namespace mnemosyne::optim
