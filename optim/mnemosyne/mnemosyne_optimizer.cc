#include "optim/mnemosyne/mnemosyne_optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "kernels/mnemosyne_step.h"
#include "optim/mnemosyne/conditions.h"
#include "optim/mnemosyne/mnemosyne_state.h"
#include "optim/mnemosyne/mnemosyne_weights.h"
#include "optim/plan_check.h"

namespace mnemosyne::optim {
namespace {

using kernels::MnemosyneTensorStep;
using kernels::MnemosyneTensorSums;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Positions in the table below.
enum : size_t {
  kLearningRate,
  kMaximize,
  kWeightDecay,
  kLearnedDecay,
  kGuard,
  kGuardCap,
  kGuardMargin
};

std::vector<HyperparameterSpec> MakeTable(const HostKnobs& knobs) {
  return {
      {"learning_rate", 1, 0, kInfinity, "Factor on the update; 1 is as it was meta-trained."},
      {"maximize", 0, 0, 1, "Whether to climb rather than descend.", true},
      {"weight_decay", 0, 0, kInfinity, "Decoupled: parameters shrink by learning_rate * this."},
      {"learned_decay", 1, 0, kInfinity, "Factor on the decay that was learned; 0 for none."},
      {"guard", 1, 0, 1, "Whether updates are capped and a rising loss leads back to Adam.", true},
      {"guard_cap", knobs.guard_cap, 0, kInfinity,
       "Most rms of an update, over that of its parameter at the start or 1/sqrt(fan-in)."},
      {"guard_margin", knobs.guard_margin, 0, kInfinity,
       "Rise of the mean log loss over its best at which the guard trips; of the first group."},
  };
}

// What the guard's cap is relative to: the rms at the start, at least 1/sqrt(fan-in).
double ScaleLimit(const ScaleRecord& scale, double fan_in) {
  return std::exp(std::max(2.0 * static_cast<double>(scale.log_rms), 0.0)) / std::sqrt(fan_in);
}

// 1 / Psi of a memory with constant keys, after `clock` of them.
float WriteRate(double decay, double clock) {
  return static_cast<float>((1 - decay) / (1 - std::pow(decay, clock)));
}

class Mnemosyne final : public Optimizer {
 public:
  Mnemosyne(const OptimizerInfo& info, const MnemosyneWeights& weights,
            kernels::Buffer device_weights, kernels::Backend& backend)
      : info_(info),
        weights_(weights),
        backend_(backend),
        device_weights_(std::move(device_weights)),
        model_(weights.At(device_weights_.as<const float>())) {}

  const OptimizerInfo& info() const override { return info_; }

  size_t StateBytes(const ParameterLayout& layout) const override {
    return MnemosyneState::ByteCount(layout, model_.sizes);
  }

  absl::StatusOr<std::unique_ptr<OptimizerState>> Init(const ParameterLayout& layout) override {
    return MnemosyneState::Create(layout, weights_, backend_);
  }

  absl::Status Update(OptimizerState& state, const StepPlan& plan, float* values,
                      std::span<double> square_sums) override {
    auto& memory = static_cast<MnemosyneState&>(state);
    MNEMO_RETURN_IF_ERROR(CheckPlan(memory.layout(), plan, square_sums));
    MNEMO_RETURN_IF_ERROR(Begin(memory, plan, values));

    MNEMO_RETURN_IF_ERROR(Load(memory));
    const ToldInputs told = TakeInLoss(plan);
    LearnScales(memory.chunks(), plan);
    Describe(memory, plan, told);
    MNEMO_RETURN_IF_ERROR(backend_.MnemosyneContext({model_, memory.memory(), sums_}));
    MNEMO_RETURN_IF_ERROR(RunStep(memory, plan, values, /*replay=*/false, square_sums));
    for (const size_t capped : capped_) session_.guard.capped += static_cast<double>(capped);
    MNEMO_RETURN_IF_ERROR(Save(memory));
    Note(plan, memory);
    return absl::OkStatus();
  }

  absl::Status Replay(const OptimizerState& state, const StepPlan& plan, float* values,
                      std::span<double> square_sums) override {
    const auto& memory = static_cast<const MnemosyneState&>(state);
    MNEMO_RETURN_IF_ERROR(CheckPlan(memory.layout(), plan, square_sums));
    MNEMO_RETURN_IF_ERROR(Begin(memory, plan, values));
    steps_.assign(parameters_.size(), {});
    for (size_t k = 0; k < parameters_.size(); ++k) {
      steps_[k].gradient_scale = GradientScale(memory.layout(), plan, parameters_[k]);
    }
    return RunStep(memory, plan, values, /*replay=*/true, square_sums);
  }

  UpdateRule Rule(const GroupStep& group) const override {
    return {group.learning_rate * group.values[kWeightDecay], group.learning_rate};
  }

 private:
  // Finds out who takes part, and answers zeros for the others.
  absl::Status Begin(const MnemosyneState& state, const StepPlan& plan, float* values) {
    parameters_.clear();
    idle_.clear();
    for (size_t i = 0; i < plan.parameters.size(); ++i) {
      if (plan.parameters[i].takes_part) {
        parameters_.push_back(i);
      } else {
        const ParameterLayout::Run& run = state.layout().runs()[i];
        idle_.push_back({run.offset, run.count});
      }
    }
    sums_.assign(plan.parameters.size(), {});
    return backend_.SetZero(idle_, values);
  }

  absl::Status Load(const MnemosyneState& state) {
    scales_.resize(state.chunks().tensors().size());
    MNEMO_RETURN_IF_ERROR(backend_.Download(
        state.session(), reinterpret_cast<std::byte*>(&session_), sizeof(session_)));
    return backend_.Download(state.scales(), reinterpret_cast<std::byte*>(scales_.data()),
                             scales_.size() * sizeof(ScaleRecord));
  }

  absl::Status Save(const MnemosyneState& state) {
    MNEMO_RETURN_IF_ERROR(backend_.Upload(reinterpret_cast<const std::byte*>(&session_),
                                          state.session(), sizeof(session_)));
    return backend_.Upload(reinterpret_cast<const std::byte*>(scales_.data()), state.scales(),
                           scales_.size() * sizeof(ScaleRecord));
  }

  // The loss moves the trace and the guard.
  ToldInputs TakeInLoss(const StepPlan& plan) {
    ToldInputs told;
    told.loss = plan.loss;
    if (plan.horizon) {
      const double past = static_cast<double>(plan.step - 1) / static_cast<double>(*plan.horizon);
      told.progress = std::clamp(past, 0.0, 1.0);
    }
    session_.trace.Add(told);
    const HyperparameterValues& values = plan.groups[0].values;
    session_.guard.Watch(
        session_.trace, told,
        {.gate = values[kGuard] != 0 ? weights_.knobs.gate_guard : 0,
         .margin = values[kGuardMargin],
         .release = std::min<double>(weights_.knobs.guard_release, values[kGuardMargin]),
         .recovery = weights_.knobs.guard_recovery});
    return told;
  }

  // The scale of a parameter is what was told at its first step.
  void LearnScales(const ChunkLayout& chunks, const StepPlan& plan) {
    if (plan.parameter_rms.empty()) return;
    for (const size_t i : parameters_) {
      if (plan.parameters[i].clock != 1) continue;
      scales_[i] = ScaleOf(plan.parameter_rms[i], chunks.fans()[i].in);
    }
  }

  static float GradientScale(const ParameterLayout& layout, const StepPlan& plan, size_t i) {
    const GroupStep& group = plan.groups[layout.parameters()[i].group];
    const float scale = plan.parameters[i].gradient_scale;
    return group.values[kMaximize] != 0 ? -scale : scale;
  }

  // What the op is told of each parameter: its clocks, its bounds, its conditions.
  void Describe(const MnemosyneState& state, const StepPlan& plan, const ToldInputs& told);

  absl::Status RunStep(const MnemosyneState& state, const StepPlan& plan, float* values,
                       bool replay, std::span<double> square_sums);

  void Note(const StepPlan& plan, MnemosyneState& state);

  const OptimizerInfo& info_;
  const MnemosyneWeights& weights_;
  kernels::Backend& backend_;
  const kernels::Buffer device_weights_;
  const kernels::MnemosyneModel model_;

  // Workspace.
  SessionRecord session_;
  std::vector<ScaleRecord> scales_;
  std::vector<size_t> parameters_;
  std::vector<kernels::Segment> idle_;
  std::vector<MnemosyneTensorStep> steps_;
  std::vector<MnemosyneTensorSums> sums_;
  std::vector<double> step_square_sums_;
  std::vector<size_t> capped_;
};

void Mnemosyne::Describe(const MnemosyneState& state, const StepPlan& plan,
                         const ToldInputs& told) {
  const HostKnobs& knobs = weights_.knobs;
  steps_.clear();
  int64_t last_clock = 0;  // That of no step.
  MnemosyneTensorStep step;
  std::array<float, kSharedFeatureCount> shared = {};
  for (const size_t i : parameters_) {
    const int64_t clock = plan.parameters[i].clock;
    if (clock != last_clock) {
      last_clock = clock;
      const auto steps = static_cast<double>(clock);
      step.clock = static_cast<uint64_t>(clock);
      const double age = std::min<double>(steps, knobs.age_limit);
      step.rate_fast = WriteRate(weights_.decay_fast, steps);
      step.rate_square = WriteRate(weights_.decay_square, steps);
      step.age = static_cast<float>(age);
      step.fall = static_cast<float>(std::pow(age, -static_cast<double>(knobs.fast_power)));
      step.warm = static_cast<float>(age / (age + static_cast<double>(knobs.warmup)));
      shared = SharedFeatures(session_.trace, told, age);
    }
    const HyperparameterValues& values = plan.groups[state.layout().parameters()[i].group].values;
    const bool guarded = values[kGuard] != 0 && knobs.gate_guard > 0;
    const double rate = plan.groups[state.layout().parameters()[i].group].learning_rate;
    const double limit =
        values[kGuardCap] * ScaleLimit(scales_[i], state.chunks().fans()[i].in) / rate;
    step.gradient_scale = GradientScale(state.layout(), plan, i);
    step.limit = static_cast<float>(guarded && rate > 0 ? limit : kInfinity);
    step.level = static_cast<float>(guarded ? session_.guard.level : 0);
    const Conditions conditions =
        JoinConditions(state.chunks().shape_features(i), shared, scales_[i]);
    std::copy(conditions.begin(), conditions.end(), step.conditions);
    steps_.push_back(step);
  }
}

absl::Status Mnemosyne::RunStep(const MnemosyneState& state, const StepPlan& plan, float* values,
                                bool replay, std::span<double> square_sums) {
  step_square_sums_.assign(parameters_.size(), 0);
  capped_.assign(parameters_.size(), 0);
  MNEMO_RETURN_IF_ERROR(backend_.MnemosyneStep({model_, state.memory(), parameters_, steps_, sums_,
                                                values, step_square_sums_, capped_, replay}));
  std::fill(square_sums.begin(), square_sums.end(), 0.0);
  for (size_t k = 0; k < parameters_.size(); ++k) {
    const size_t i = parameters_[k];
    const double scale = Rule(plan.groups[state.layout().parameters()[i].group]).scale;
    square_sums[i] = step_square_sums_[k] * scale * scale;
  }
  return absl::OkStatus();
}

void Mnemosyne::Note(const StepPlan& plan, MnemosyneState& state) {
  StepNotes& notes = state.mutable_notes();
  notes.rules.clear();
  for (size_t i = 0; i < plan.parameters.size(); ++i) {
    const GroupStep& group = plan.groups[state.layout().parameters()[i].group];
    UpdateRule rule = Rule(group);
    rule.decay += sums_[i].shrink * group.learning_rate * group.values[kLearnedDecay];
    notes.rules.push_back(rule);
  }
  notes.guard = GuardReport{.level = session_.guard.level,
                            .trips = static_cast<int64_t>(session_.guard.trips),
                            .capped_chunks = static_cast<int64_t>(session_.guard.capped)};
}

class MnemosyneFactory final : public OptimizerFactory {
 public:
  MnemosyneFactory(std::shared_ptr<const Model> model, MnemosyneWeights weights)
      : model_(std::move(model)),
        weights_(std::move(weights)),
        table_(MakeTable(weights_.knobs)),
        description_(
            fmt::format("Mnemosyne, memories steered by attention over chunks of {}, "
                        "meta-trained.",
                        weights_.model.sizes.chunk_cells * weights_.model.sizes.cell_size)),
        info_{model_->name(),
              model_->version(),
              description_,
              table_,
              MnemosyneState::BytesPerElement(weights_.model.sizes),
              model_->hash(),
              /*has_half_state=*/true} {}

  const OptimizerInfo& info() const override { return info_; }

  absl::StatusOr<std::unique_ptr<Optimizer>> Create(kernels::Backend& backend) const override {
    const std::span bytes = std::as_bytes(std::span(weights_.packed));
    MNEMO_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(bytes.size()));
    MNEMO_RETURN_IF_ERROR(backend.Upload(bytes.data(), buffer.data(), bytes.size()));
    // A step over nothing, to learn now whether the device has the ops.
    MNEMO_RETURN_IF_ERROR(
        backend.MnemosyneStep({weights_.model, {}, {}, {}, {}, nullptr, {}, {}, /*replay=*/false}));
    return std::make_unique<Mnemosyne>(info_, weights_, std::move(buffer), backend);
  }

 private:
  const std::shared_ptr<const Model> model_;
  const MnemosyneWeights weights_;
  const std::vector<HyperparameterSpec> table_;
  const std::string description_;
  const OptimizerInfo info_;
};

}  // namespace

absl::StatusOr<OptimizerFactoryPtr> MakeMnemosyne(std::shared_ptr<const Model> model) {
  MNEMO_ASSIGN_OR_RETURN(MnemosyneWeights weights, ReadMnemosyneWeights(*model));
  return std::make_shared<const MnemosyneFactory>(std::move(model), std::move(weights));
}

}  // namespace mnemosyne::optim
