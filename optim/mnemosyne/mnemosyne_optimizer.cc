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
    SharedStep step = {state, plan, values, square_sums, {}};
    UpdateMany({&step, 1});
    return step.status;
  }

  void UpdateMany(std::span<SharedStep> steps) override;

  absl::Status Replay(const OptimizerState& state, const StepPlan& plan, float* values,
                      std::span<double> square_sums) override {
    const auto& memory = static_cast<const MnemosyneState&>(state);
    MNEMO_RETURN_IF_ERROR(CheckPlan(memory.layout(), plan, square_sums));
    if (works_.empty()) works_.resize(1);
    Work& work = works_[0];
    MNEMO_RETURN_IF_ERROR(Begin(memory, plan, values, work));
    work.steps.assign(work.parameters.size(), {});
    for (size_t k = 0; k < work.parameters.size(); ++k) {
      work.steps[k].gradient_scale = GradientScale(memory.layout(), plan, work.parameters[k]);
    }
    MNEMO_RETURN_IF_ERROR(
        backend_.MnemosyneStep({model_, memory.memory(), work.parameters, work.steps, work.sums,
                                values, work.square_sums, work.capped, /*replay=*/true}));
    TakeSquareSums(memory, plan, work, square_sums);
    return absl::OkStatus();
  }

  UpdateRule Rule(const GroupStep& group) const override {
    return {group.learning_rate * group.values[kWeightDecay], group.learning_rate};
  }

 private:
  // What a step works with until it is done.
  struct Work {
    SessionRecord session;
    std::vector<ScaleRecord> scales;
    std::vector<size_t> parameters;
    std::vector<kernels::Segment> idle;
    std::vector<MnemosyneTensorStep> steps;
    std::vector<MnemosyneTensorSums> sums;
    std::vector<double> square_sums;
    std::vector<size_t> capped;
  };

  // Finds out who takes part, and answers zeros for the others.
  absl::Status Begin(const MnemosyneState& state, const StepPlan& plan, float* values, Work& work) {
    work.parameters.clear();
    work.idle.clear();
    for (size_t i = 0; i < plan.parameters.size(); ++i) {
      if (plan.parameters[i].takes_part) {
        work.parameters.push_back(i);
      } else {
        const ParameterLayout::Run& run = state.layout().runs()[i];
        work.idle.push_back({run.offset, run.count});
      }
    }
    work.sums.assign(plan.parameters.size(), {});
    work.square_sums.assign(work.parameters.size(), 0);
    work.capped.assign(work.parameters.size(), 0);
    return backend_.SetZero(work.idle, values);
  }

  // All that a step needs before the device has its turn; nothing of the state changes.
  absl::Status Prepare(const SharedStep& step, Work& work) {
    const auto& state = static_cast<const MnemosyneState&>(step.state);
    MNEMO_RETURN_IF_ERROR(CheckPlan(state.layout(), step.plan, step.square_sums));
    MNEMO_RETURN_IF_ERROR(Begin(state, step.plan, step.values, work));
    work.session = state.session();
    work.scales.assign(state.scales().begin(), state.scales().end());
    const ToldInputs told = TakeInLoss(step.plan, work);
    LearnScales(state.chunks(), step.plan, work);
    Describe(state, step.plan, told, work);
    return absl::OkStatus();
  }

  // All that is left once it had.
  void Finish(const SharedStep& step, Work& work) {
    auto& state = static_cast<MnemosyneState&>(step.state);
    TakeSquareSums(state, step.plan, work, step.square_sums);
    for (const size_t capped : work.capped) {
      work.session.guard.capped += static_cast<double>(capped);
    }
    state.session() = work.session;
    std::copy(work.scales.begin(), work.scales.end(), state.scales().begin());
    Note(step.plan, work, state);
  }

  // The loss moves the trace and the guard.
  ToldInputs TakeInLoss(const StepPlan& plan, Work& work) {
    ToldInputs told;
    told.loss = plan.loss;
    if (plan.horizon) {
      const double past = static_cast<double>(plan.step - 1) / static_cast<double>(*plan.horizon);
      told.progress = std::clamp(past, 0.0, 1.0);
    }
    work.session.trace.Add(told);
    const HyperparameterValues& values = plan.groups[0].values;
    work.session.guard.Watch(
        work.session.trace, told,
        {.gate = values[kGuard] != 0 ? weights_.knobs.gate_guard : 0,
         .margin = values[kGuardMargin],
         .release = std::min<double>(weights_.knobs.guard_release, values[kGuardMargin]),
         .recovery = weights_.knobs.guard_recovery});
    return told;
  }

  // The scale of a parameter is what was told at its first step.
  static void LearnScales(const ChunkLayout& chunks, const StepPlan& plan, Work& work) {
    if (plan.parameter_rms.empty()) return;
    for (const size_t i : work.parameters) {
      if (plan.parameters[i].clock != 1) continue;
      work.scales[i] = ScaleOf(plan.parameter_rms[i], chunks.fans()[i].in);
    }
  }

  static float GradientScale(const ParameterLayout& layout, const StepPlan& plan, size_t i) {
    const GroupStep& group = plan.groups[layout.parameters()[i].group];
    const float scale = plan.parameters[i].gradient_scale;
    return group.values[kMaximize] != 0 ? -scale : scale;
  }

  // What the op is told of each parameter: its clocks, its bounds, its conditions.
  void Describe(const MnemosyneState& state, const StepPlan& plan, const ToldInputs& told,
                Work& work) const;

  void TakeSquareSums(const MnemosyneState& state, const StepPlan& plan, const Work& work,
                      std::span<double> square_sums) const;

  void Note(const StepPlan& plan, const Work& work, MnemosyneState& state) const;

  const OptimizerInfo& info_;
  const MnemosyneWeights& weights_;
  kernels::Backend& backend_;
  const kernels::Buffer device_weights_;
  const kernels::MnemosyneModel model_;

  // Workspace, kept from step to step.
  std::vector<Work> works_;
  std::vector<size_t> begun_;  // Positions of updates_ among those that share.
  std::vector<kernels::MnemosyneUpdateArgs> updates_;
};

void Mnemosyne::UpdateMany(std::span<SharedStep> steps) {
  if (works_.size() < steps.size()) works_.resize(steps.size());
  begun_.clear();
  updates_.clear();
  for (size_t k = 0; k < steps.size(); ++k) {
    SharedStep& step = steps[k];
    Work& work = works_[k];
    step.status = Prepare(step, work);
    if (!step.status.ok()) continue;
    begun_.push_back(k);
    updates_.push_back({static_cast<const MnemosyneState&>(step.state).memory(), work.parameters,
                        work.steps, step.values, work.sums, work.square_sums, work.capped});
  }
  const absl::Status shared = backend_.MnemosyneUpdates(model_, updates_);
  // Where there is no room for all, there may be for each.
  const bool apart = updates_.size() > 1 && absl::IsResourceExhausted(shared);
  for (size_t i = 0; i < begun_.size(); ++i) {
    SharedStep& step = steps[begun_[i]];
    step.status =
        apart ? backend_.MnemosyneUpdates(model_, std::span(updates_).subspan(i, 1)) : shared;
    if (step.status.ok()) Finish(step, works_[begun_[i]]);
  }
}

void Mnemosyne::Describe(const MnemosyneState& state, const StepPlan& plan, const ToldInputs& told,
                         Work& work) const {
  const HostKnobs& knobs = weights_.knobs;
  work.steps.clear();
  int64_t last_clock = 0;  // That of no step.
  MnemosyneTensorStep step;
  std::array<float, kSharedFeatureCount> shared = {};
  for (const size_t i : work.parameters) {
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
      shared = SharedFeatures(work.session.trace, told, age);
    }
    const HyperparameterValues& values = plan.groups[state.layout().parameters()[i].group].values;
    const bool guarded = values[kGuard] != 0 && knobs.gate_guard > 0;
    const double rate = plan.groups[state.layout().parameters()[i].group].learning_rate;
    const double limit =
        values[kGuardCap] * ScaleLimit(work.scales[i], state.chunks().fans()[i].in) / rate;
    step.gradient_scale = GradientScale(state.layout(), plan, i);
    step.limit = static_cast<float>(guarded && rate > 0 ? limit : kInfinity);
    step.level = static_cast<float>(guarded ? work.session.guard.level : 0);
    const Conditions conditions =
        JoinConditions(state.chunks().shape_features(i), shared, work.scales[i]);
    std::copy(conditions.begin(), conditions.end(), step.conditions);
    work.steps.push_back(step);
  }
}

void Mnemosyne::TakeSquareSums(const MnemosyneState& state, const StepPlan& plan, const Work& work,
                               std::span<double> square_sums) const {
  std::fill(square_sums.begin(), square_sums.end(), 0.0);
  for (size_t k = 0; k < work.parameters.size(); ++k) {
    const size_t i = work.parameters[k];
    const double scale = Rule(plan.groups[state.layout().parameters()[i].group]).scale;
    square_sums[i] = work.square_sums[k] * scale * scale;
  }
}

void Mnemosyne::Note(const StepPlan& plan, const Work& work, MnemosyneState& state) const {
  StepNotes& notes = state.mutable_notes();
  notes.rules.clear();
  for (size_t i = 0; i < plan.parameters.size(); ++i) {
    const GroupStep& group = plan.groups[state.layout().parameters()[i].group];
    UpdateRule rule = Rule(group);
    rule.decay += work.sums[i].shrink * group.learning_rate * group.values[kLearnedDecay];
    notes.rules.push_back(rule);
  }
  notes.guard = GuardReport{.level = work.session.guard.level,
                            .trips = static_cast<int64_t>(work.session.guard.trips),
                            .capped_chunks = static_cast<int64_t>(work.session.guard.capped)};
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
