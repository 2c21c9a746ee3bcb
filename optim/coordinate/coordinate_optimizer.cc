#include "optim/coordinate/coordinate_optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "kernels/coordinate_step.h"
#include "optim/coordinate/coordinate_state.h"
#include "optim/coordinate/coordinate_weights.h"
#include "optim/mnemosyne/conditions.h"
#include "optim/plan_check.h"

namespace mnemosyne::optim {
namespace {

using kernels::CoordinateTensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Positions in the table below.
enum : size_t { kLearningRate, kMaximize, kWeightDecay };

constexpr HyperparameterSpec kHyperparameters[] = {
    {"learning_rate", 1, 0, kInfinity, "Factor on the update; 1 is as it was meta-trained."},
    {"maximize", 0, 0, 1, "Whether to climb rather than descend.", true},
    {"weight_decay", 0, 0, kInfinity, "Decoupled: parameters shrink by learning_rate * this."},
};

// Psi of a memory with constant keys, after `clock` of them.
double Mass(double decay, double clock) { return (1 - std::pow(decay, clock)) / (1 - decay); }

double StateBytes(std::span<const SlotSpec> slots) {
  size_t words = 0;
  for (const SlotSpec& slot : slots) words += slot.words_per_element;
  return static_cast<double>(words * sizeof(float));
}

class CoordinateMnemosyne final : public Optimizer {
 public:
  CoordinateMnemosyne(const OptimizerInfo& info, std::span<const SlotSpec> slots,
                      const CoordinateWeights& weights, kernels::Buffer device_weights,
                      kernels::Backend& backend)
      : info_(info),
        slots_(slots),
        weights_(weights),
        backend_(backend),
        device_weights_(std::move(device_weights)) {}

  const OptimizerInfo& info() const override { return info_; }

  size_t StateBytes(const ParameterLayout& layout) const override {
    return CoordinateState::ByteCount(layout, slots_);
  }

  absl::StatusOr<std::unique_ptr<OptimizerState>> Init(const ParameterLayout& layout) override {
    return CoordinateState::Create(layout, slots_, backend_);
  }

  absl::Status Update(OptimizerState& state, const StepPlan& plan, float* values,
                      std::span<double> square_sums) override {
    const auto& memory = static_cast<const CoordinateState&>(state);
    MNEMO_RETURN_IF_ERROR(CheckPlan(memory.layout(), plan, square_sums));
    MNEMO_RETURN_IF_ERROR(Begin(memory, plan, values));

    MNEMO_RETURN_IF_ERROR(Load(memory));
    const ToldInputs told = TakeInLoss(plan);
    Describe(memory, plan, told);
    MNEMO_RETURN_IF_ERROR(RunStep(memory, plan, values, /*replay=*/false, square_sums));
    return Save(memory);
  }

  absl::Status Replay(const OptimizerState& state, const StepPlan& plan, float* values,
                      std::span<double> square_sums) override {
    const auto& memory = static_cast<const CoordinateState&>(state);
    MNEMO_RETURN_IF_ERROR(CheckPlan(memory.layout(), plan, square_sums));
    MNEMO_RETURN_IF_ERROR(Begin(memory, plan, values));
    tensors_.assign(parameters_.size(), {});
    return RunStep(memory, plan, values, /*replay=*/true, square_sums);
  }

  UpdateRule Rule(const GroupStep& group) const override {
    return {group.learning_rate * group.values[kWeightDecay], group.learning_rate};
  }

 private:
  // Finds out who takes part, and answers zeros for the others.
  absl::Status Begin(const CoordinateState& state, const StepPlan& plan, float* values) {
    parameters_.clear();
    segments_.clear();
    idle_.clear();
    for (size_t i = 0; i < plan.parameters.size(); ++i) {
      const ParameterLayout::Run& run = state.layout().runs()[i];
      if (plan.parameters[i].takes_part) {
        parameters_.push_back(i);
        segments_.push_back({run.offset, run.count});
      } else {
        idle_.push_back({run.offset, run.count});
      }
    }
    return backend_.SetZero(idle_, values);
  }

  absl::Status Load(const CoordinateState& state) {
    scales_.resize(state.layout().runs().size());
    MNEMO_RETURN_IF_ERROR(
        backend_.Download(state.session(), reinterpret_cast<std::byte*>(&trace_), sizeof(trace_)));
    return backend_.Download(state.scales(), reinterpret_cast<std::byte*>(scales_.data()),
                             scales_.size() * sizeof(ScaleRecord));
  }

  absl::Status Save(const CoordinateState& state) {
    MNEMO_RETURN_IF_ERROR(backend_.Upload(reinterpret_cast<const std::byte*>(&trace_),
                                          state.session(), sizeof(trace_)));
    return backend_.Upload(reinterpret_cast<const std::byte*>(scales_.data()), state.scales(),
                           scales_.size() * sizeof(ScaleRecord));
  }

  ToldInputs TakeInLoss(const StepPlan& plan) {
    ToldInputs told;
    told.loss = plan.loss;
    if (plan.horizon) {
      const double past = static_cast<double>(plan.step - 1) / static_cast<double>(*plan.horizon);
      told.progress = std::clamp(past, 0.0, 1.0);
    }
    trace_.Add(told);
    return told;
  }

  // What the op is told of each parameter: its shape, its clocks, its conditions.
  void Describe(const CoordinateState& state, const StepPlan& plan, const ToldInputs& told);

  absl::Status RunStep(const CoordinateState& state, const StepPlan& plan, float* values,
                       bool replay, std::span<double> square_sums);

  const OptimizerInfo& info_;
  const std::span<const SlotSpec> slots_;
  const CoordinateWeights& weights_;
  kernels::Backend& backend_;
  const kernels::Buffer device_weights_;

  // Workspace.
  LossTrace trace_;
  std::vector<ScaleRecord> scales_;
  std::vector<size_t> parameters_;
  std::vector<kernels::Segment> segments_;
  std::vector<kernels::Segment> idle_;
  std::vector<CoordinateTensor> tensors_;
  std::vector<float> told_;
  std::vector<double> step_square_sums_;
};

void CoordinateMnemosyne::Describe(const CoordinateState& state, const StepPlan& plan,
                                   const ToldInputs& told) {
  const StepPrior prior = {weights_.eta_vector, weights_.eta_matrix, weights_.width_exponent};
  const size_t hidden = weights_.model.sizes.hidden;
  tensors_.clear();
  told_.resize(parameters_.size() * hidden);
  int64_t last_clock = 0;  // That of no step.
  CoordinateTensor tensor;
  std::array<float, kSharedFeatureCount> shared = {};
  for (size_t k = 0; k < parameters_.size(); ++k) {
    const size_t i = parameters_[k];
    const ParameterSpec& parameter = state.layout().parameters()[i];
    const ParameterStep& part = plan.parameters[i];
    if (part.clock != last_clock) {
      last_clock = part.clock;
      const auto steps = static_cast<double>(part.clock);
      const double mass_square = Mass(weights_.decay_square, steps);
      tensor.mass_fast = static_cast<float>(Mass(weights_.decay_fast, steps));
      tensor.mass_slow = static_cast<float>(Mass(weights_.decay_slow, steps));
      tensor.mass_square = static_cast<float>(mass_square);
      shared = SharedFeatures(trace_, told, mass_square);
    }
    const Fans fans = FansOf(parameter);
    // The scale of a parameter is what was told at its first step.
    if (part.clock == 1 && !plan.parameter_rms.empty()) {
      scales_[i] = ScaleOf(plan.parameter_rms[i], fans.in);
    }
    const bool climbs = plan.groups[parameter.group].values[kMaximize] != 0;
    tensor.gradient_scale = climbs ? -part.gradient_scale : part.gradient_scale;
    tensor.prior_step = static_cast<float>(PriorStepSize(prior, fans.in));
    tensor.rank = parameter.shape.size();
    std::ranges::transform(parameter.shape, tensor.shape,
                           [](int64_t length) { return static_cast<size_t>(length); });
    tensors_.push_back(tensor);
    weights_.Tell(JoinConditions(ShapeFeatures(parameter, fans), shared, scales_[i]),
                  told_.data() + k * hidden);
  }
}

absl::Status CoordinateMnemosyne::RunStep(const CoordinateState& state, const StepPlan& plan,
                                          float* values, bool replay,
                                          std::span<double> square_sums) {
  step_square_sums_.assign(parameters_.size(), 0);
  MNEMO_RETURN_IF_ERROR(backend_.CoordinateStep(
      {segments_, tensors_, told_, weights_.model, device_weights_.as<const float>(), values,
       state.arena(kFast), state.arena(kSlow), state.arena(kSquare), state.arena(kLogStep),
       state.arena(kLastUpdate), state.arena(kContent), state.arena(kMass), step_square_sums_,
       replay}));
  std::fill(square_sums.begin(), square_sums.end(), 0.0);
  for (size_t k = 0; k < parameters_.size(); ++k) {
    const size_t i = parameters_[k];
    const double scale = Rule(plan.groups[state.layout().parameters()[i].group]).scale;
    square_sums[i] = step_square_sums_[k] * scale * scale;
  }
  return absl::OkStatus();
}

class CoordinateFactory final : public OptimizerFactory {
 public:
  CoordinateFactory(std::shared_ptr<const Model> model, CoordinateWeights weights)
      : model_(std::move(model)),
        weights_(std::move(weights)),
        slots_(CoordinateSlots(weights_.model.sizes)),
        description_(fmt::format("Mnemosyne, coordinate-wise: {} memories of {} features for each "
                                 "element, meta-trained; for small nets.",
                                 weights_.model.sizes.heads, weights_.model.sizes.map.features)),
        info_{model_->name(),   model_->version(),  description_,
              kHyperparameters, StateBytes(slots_), model_->hash()} {}

  const OptimizerInfo& info() const override { return info_; }

  absl::StatusOr<std::unique_ptr<Optimizer>> Create(kernels::Backend& backend) const override {
    const std::span bytes = std::as_bytes(std::span(weights_.packed));
    MNEMO_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(bytes.size()));
    MNEMO_RETURN_IF_ERROR(backend.Upload(bytes.data(), buffer.data(), bytes.size()));
    // A step over nothing, to learn now whether the device has the op.
    MNEMO_RETURN_IF_ERROR(backend.CoordinateStep({{},
                                                  {},
                                                  {},
                                                  weights_.model,
                                                  nullptr,
                                                  nullptr,
                                                  nullptr,
                                                  nullptr,
                                                  nullptr,
                                                  nullptr,
                                                  nullptr,
                                                  nullptr,
                                                  nullptr,
                                                  {}}));
    return std::make_unique<CoordinateMnemosyne>(info_, slots_, weights_, std::move(buffer),
                                                 backend);
  }

 private:
  const std::shared_ptr<const Model> model_;
  const CoordinateWeights weights_;
  const std::vector<SlotSpec> slots_;
  const std::string description_;
  const OptimizerInfo info_;
};

}  // namespace

absl::StatusOr<OptimizerFactoryPtr> MakeCoordinateMnemosyne(std::shared_ptr<const Model> model) {
  MNEMO_ASSIGN_OR_RETURN(CoordinateWeights weights, ReadCoordinateWeights(*model));
  return std::make_shared<const CoordinateFactory>(std::move(model), std::move(weights));
}

}  // namespace mnemosyne::optim
