#include "optim/classic/sgd.h"

#include <limits>
#include <vector>

#include "optim/arena_optimizer.h"

namespace mnemosyne::optim {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Positions in the table below.
enum : size_t { kLearningRate, kMomentum, kDampening, kNesterov, kMaximize, kWeightDecay };

constexpr HyperparameterSpec kHyperparameters[] = {
    {"learning_rate", 0.01, 0, kInfinity, "Factor on the direction."},
    {"momentum", 0, 0, kInfinity, "Share of the last direction that is kept; 0 is none."},
    {"dampening", 0, 0, kInfinity, "1 - dampening is the weight of a gradient in the momentum."},
    {"nesterov", 0, 0, 1, "Whether to look ahead along the momentum.", true},
    {"maximize", 0, 0, 1, "Whether to climb rather than descend.", true},
    {"weight_decay", 0, 0, kInfinity, "Decoupled: parameters shrink by learning_rate * this."},
};

constexpr SlotSpec kSlots[] = {{"momentum_buffer"}};

class Sgd final : public ArenaOptimizer {
 public:
  explicit Sgd(kernels::Backend& backend) : ArenaOptimizer(kSgdInfo, kSlots, backend) {}

  UpdateRule Rule(const GroupStep& group) const override {
    return {group.learning_rate * group.values[kWeightDecay], -group.learning_rate};
  }

 private:
  absl::Status Run(std::span<const Step> steps) override {
    const auto make = [](const GroupStep& group, int64_t clock) {
      kernels::SgdCoefficients coefficients;
      coefficients.momentum = static_cast<float>(group.values[kMomentum]);
      coefficients.gradient_weight = static_cast<float>(1 - group.values[kDampening]);
      coefficients.first_step = clock == 1;
      coefficients.nesterov = group.values[kNesterov] != 0;
      return coefficients;
    };
    return backend_.SgdSteps(
        BindSteps(steps, kMaximize, coefficients_, make,
                  [](const Step& step, std::span<const kernels::SgdCoefficients> coefficients) {
                    return kernels::SgdStepArgs{step.segments,    coefficients,
                                                step.values,      step.state.arena<float>(0),
                                                step.square_sums, step.replay};
                  }));
  }

  std::vector<kernels::SgdCoefficients> coefficients_;  // Workspace.
};

}  // namespace

const OptimizerInfo kSgdInfo = {
    "sgd", "1", "Stochastic gradient descent with momentum, dampening and Nesterov's rule.",
    kHyperparameters, sizeof(float)};

std::unique_ptr<Optimizer> MakeSgd(kernels::Backend& backend) {
  return std::make_unique<Sgd>(backend);
}

}  // namespace mnemosyne::optim
