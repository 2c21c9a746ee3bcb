#include "optim/lstm/lstm_optimizer.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "kernels/lstm_step.h"
#include "optim/arena_optimizer.h"
#include "optim/lstm/lstm_weights.h"

namespace mnemosyne::optim {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Of the means that rnnprop normalizes with.
constexpr double kBeta = 0.95;

// Positions in the table below.
enum : size_t { kLearningRate, kMaximize, kWeightDecay };

constexpr HyperparameterSpec kHyperparameters[] = {
    {"learning_rate", 1, 0, kInfinity, "Factor on the update; 1 is as it was meta-trained."},
    {"maximize", 0, 0, 1, "Whether to climb rather than descend.", true},
    {"weight_decay", 0, 0, kInfinity, "Decoupled: parameters shrink by learning_rate * this."},
};

std::vector<SlotSpec> MakeSlots(const kernels::LstmSizes& sizes) {
  const size_t numbers = kernels::LstmStateCount(sizes);
  std::vector<SlotSpec> slots = {{.name = "hidden", .words_per_element = numbers},
                                 {.name = "cell", .words_per_element = numbers}};
  if (sizes.normalized) {
    slots.push_back({"mean"});
    slots.push_back({"square"});
  }
  return slots;
}

double StateBytes(std::span<const SlotSpec> slots) {
  size_t words = 0;
  for (const SlotSpec& slot : slots) words += slot.words_per_element;
  return static_cast<double>(words * sizeof(float));
}

class LstmOptimizer final : public ArenaOptimizer {
 public:
  LstmOptimizer(const OptimizerInfo& info, std::span<const SlotSpec> slots,
                const LstmWeights& weights, kernels::Buffer device_weights,
                kernels::Backend& backend)
      : ArenaOptimizer(info, slots, backend),
        sizes_(weights.sizes),
        output_scale_(weights.output_scale),
        weights_(std::move(device_weights)) {}

  UpdateRule Rule(const GroupStep& group) const override {
    return {group.learning_rate * group.values[kWeightDecay], group.learning_rate};
  }

 private:
  bool runs_many() const override { return false; }

  absl::Status Run(std::span<const Step> steps) override {
    const Step& step = steps.front();
    coefficients_.clear();
    FillCoefficients(step, kMaximize, coefficients_, [this](const GroupStep&, int64_t clock) {
      kernels::LstmCoefficients coefficients;
      const double kept = std::pow(kBeta, static_cast<double>(clock));
      coefficients.mass = static_cast<float>((1 - kept) / (1 - kBeta));
      coefficients.output_scale = output_scale_;
      return coefficients;
    });
    const ArenaState& state = step.state;
    return backend_.LstmStep({step.segments, coefficients_, sizes_, weights_.as<const float>(),
                              step.values, state.arena<float>(0), state.arena<float>(1),
                              sizes_.normalized ? state.arena<float>(2) : nullptr,
                              sizes_.normalized ? state.arena<float>(3) : nullptr, step.square_sums,
                              step.replay});
  }

  const kernels::LstmSizes sizes_;
  const float output_scale_;
  const kernels::Buffer weights_;
  std::vector<kernels::LstmCoefficients> coefficients_;  // Workspace.
};

class LstmFactory final : public OptimizerFactory {
 public:
  LstmFactory(std::shared_ptr<const Model> model, LstmWeights weights)
      : model_(std::move(model)),
        weights_(std::move(weights)),
        slots_(MakeSlots(weights_.sizes)),
        description_(fmt::format("{}, {} layers of {} units for each element, meta-trained.",
                                 weights_.sizes.normalized ? "RNNProp" : "LSTM optimizer",
                                 weights_.sizes.layers, weights_.sizes.hidden)),
        info_{model_->name(),   model_->version(),  description_,
              kHyperparameters, StateBytes(slots_), model_->hash()} {}

  const OptimizerInfo& info() const override { return info_; }

  absl::StatusOr<std::unique_ptr<Optimizer>> Create(kernels::Backend& backend) const override {
    const std::span bytes = std::as_bytes(std::span(weights_.packed));
    MNEMO_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(bytes.size()));
    MNEMO_RETURN_IF_ERROR(backend.Upload(bytes.data(), buffer.data(), bytes.size()));
    return std::make_unique<LstmOptimizer>(info_, slots_, weights_, std::move(buffer), backend);
  }

 private:
  const std::shared_ptr<const Model> model_;
  const LstmWeights weights_;
  const std::vector<SlotSpec> slots_;
  const std::string description_;
  const OptimizerInfo info_;
};

}  // namespace

absl::StatusOr<OptimizerFactoryPtr> MakeLstm(std::shared_ptr<const Model> model) {
  MNEMO_ASSIGN_OR_RETURN(LstmWeights weights, ReadLstmWeights(*model));
  return std::make_shared<const LstmFactory>(std::move(model), std::move(weights));
}

}  // namespace mnemosyne::optim
