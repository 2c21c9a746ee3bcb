#include "server/session/step_runner.h"

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "optim/gradient_policy.h"
#include "optim/step_plan.h"
#include "server/session/session_record.h"

namespace mnemosyne::server {
namespace {

absl::Status AsInternal(const absl::Status& status) {
  return status.ok() ? status : Internal("{}", ErrorMessage(status));
}

// One step at work: its session's memory, seen from the device.
class Run {
 public:
  Run(PendingStep& step, optim::Optimizer& optimizer, kernels::Backend& backend)
      : step_(step),
        session_(step.session()),
        state_(session_.state()),
        optimizer_(optimizer),
        backend_(backend),
        parameters_(session_.layout().parameters()),
        square_sums_(parameters_.size()) {}

  absl::Status Apply();
  absl::Status Replay();

 private:
  float* values() {
    return state_.values.empty() ? state_.staging.as<float>() : state_.values.as<float>();
  }
  absl::Status ToDevice();
  absl::Status FromDevice();
  optim::StepPlan MakePlan() const;
  absl::StatusOr<optim::GradientVerdict> Inspect(optim::StepPlan& plan);
  std::vector<kernels::Segment> TakingPart(const optim::StepPlan& plan) const;
  absl::Status CheckSameGradient(const LastStep& last);
  void LogStep();
  void FillOutcome(const optim::StepPlan& plan, optim::GradientVerdict verdict);

  PendingStep& step_;
  Session& session_;
  SessionState& state_;
  optim::Optimizer& optimizer_;
  kernels::Backend& backend_;
  std::span<const optim::ParameterSpec> parameters_;
  std::vector<double> square_sums_;
};

absl::Status Run::ToDevice() {
  FAIL_POINT("step.upload");
  if (state_.values.empty()) return absl::OkStatus();
  return backend_.Upload(state_.staging.data(), state_.values.data(), state_.values.size());
}

absl::Status Run::FromDevice() {
  FAIL_POINT("step.download");
  if (state_.values.empty()) return backend_.Synchronize();
  return backend_.Download(state_.values.data(), state_.staging.data(), state_.values.size());
}

// What the rules and the client decide, before the gradients are looked at.
optim::StepPlan Run::MakePlan() const {
  const StepRules& rules = step_.rules();
  const StepRequest& request = step_.request();
  optim::StepPlan plan;
  plan.step = request.number;
  for (size_t parameter = 0; parameter < parameters_.size(); ++parameter) {
    plan.parameters.push_back({.takes_part = !step_.IsAbsent(parameter),
                               .clock = state_.clocks[parameter] + 1,
                               .gradient_scale = 1});
  }
  const auto table = optimizer_.info().hyperparameters;
  size_t rate_index = 0;
  while (table[rate_index].name != "learning_rate") ++rate_index;
  for (size_t group = 0; group < rules.groups.size(); ++group) {
    double rate = request.learning_rates.empty()
                      ? rules.groups[group][rate_index] * rules.schedule.Factor(request.number)
                      : request.learning_rates[group];
    if (!request.learning_rate_factors.empty()) rate *= request.learning_rate_factors[group];
    plan.groups.push_back({.learning_rate = rate, .values = rules.groups[group]});
  }
  plan.loss = request.loss;
  plan.horizon = rules.horizon;
  plan.parameter_rms = request.parameter_rms;
  return plan;
}

std::vector<kernels::Segment> Run::TakingPart(const optim::StepPlan& plan) const {
  std::vector<kernels::Segment> segments;
  const auto runs = session_.layout().runs();
  for (size_t parameter = 0; parameter < runs.size(); ++parameter) {
    if (plan.parameters[parameter].takes_part) {
      segments.push_back({runs[parameter].offset, runs[parameter].count});
    }
  }
  return segments;
}

absl::StatusOr<optim::GradientVerdict> Run::Inspect(optim::StepPlan& plan) {
  const std::vector<kernels::Segment> segments = TakingPart(plan);
  std::vector<kernels::GradientStatistics> measured(segments.size());
  MNEMO_RETURN_IF_ERROR(backend_.MeasureGradients(
      {.segments = segments, .values = values(), .statistics = measured}));
  std::vector<kernels::GradientStatistics> statistics(parameters_.size());
  size_t next = 0;
  for (size_t parameter = 0; parameter < parameters_.size(); ++parameter) {
    if (plan.parameters[parameter].takes_part) statistics[parameter] = measured[next++];
  }
  return optim::ApplyGradientPolicy(step_.rules().policy, statistics, parameters_, plan);
}

void Run::FillOutcome(const optim::StepPlan& plan, optim::GradientVerdict verdict) {
  StepOutcome& outcome = step_.outcome();
  outcome.number = plan.step;
  outcome.gradient_norm = verdict.gradient_norm;
  outcome.clip_factor = verdict.clip_factor;
  outcome.non_finite_count = verdict.non_finite_count;
  outcome.skipped = std::move(verdict.skipped);
  outcome.update_norm = std::sqrt(std::accumulate(square_sums_.begin(), square_sums_.end(), 0.0));
  outcome.takes_part.clear();
  for (const optim::ParameterStep& part : plan.parameters) {
    outcome.takes_part.push_back(part.takes_part);
  }
  const optim::StepNotes& notes = state_.optimizer->notes();
  outcome.guard = notes.guard;
  outcome.rules = notes.rules;
  if (!outcome.rules.empty()) return;
  for (const optim::ParameterSpec& parameter : parameters_) {
    outcome.rules.push_back(optimizer_.Rule(plan.groups[parameter.group]));
  }
}

absl::Status Run::Apply() {
  optim::StepPlan plan = MakePlan();
  MNEMO_RETURN_IF_ERROR(ToDevice());
  MNEMO_ASSIGN_OR_RETURN(optim::GradientVerdict verdict, Inspect(plan));
  if (state_.log != nullptr) LogStep();
  const bool zero_non_finite = verdict.zero_non_finite;
  if (zero_non_finite) {
    MNEMO_RETURN_IF_ERROR(backend_.ZeroNonFinite(TakingPart(plan), values()));
  }
  FAIL_POINT("step.update");
  // From here on the state changes: any failure is final.
  MNEMO_RETURN_IF_ERROR(
      AsInternal(optimizer_.Update(*state_.optimizer, plan, values(), square_sums_)));
  MNEMO_RETURN_IF_ERROR(AsInternal(FromDevice()));

  FillOutcome(plan, std::move(verdict));
  for (size_t parameter = 0; parameter < parameters_.size(); ++parameter) {
    if (plan.parameters[parameter].takes_part) ++state_.clocks[parameter];
  }
  state_.last_step = plan.step;
  state_.last = LastStep{.plan = std::move(plan),
                         .fingerprints = std::move(step_.fingerprints()),
                         .outcome = step_.outcome(),
                         .zero_non_finite = zero_non_finite};
  FAIL_POINT("step.updated");
  session_.ReportStep(step_.outcome());
  return absl::OkStatus();
}

// What the step was given, so that it can be taken again. A log that fails says so when it is to be
// made durable; the step goes on.
void Run::LogStep() {
  LoggedStep logged{.request = step_.request(), .previous_step = state_.last_step, .spec = {}};
  if (state_.logged_rules != step_.shared_rules()) {
    auto spec = ToJson(*step_.rules().spec);
    if (spec.ok()) logged.spec = *std::move(spec);
    state_.logged_rules = step_.shared_rules();
  }
  const std::vector<std::byte> front = ToBytes(logged);
  std::vector<std::span<const std::byte>> pieces = {front};
  const auto runs = session_.layout().runs();
  for (size_t parameter = 0; parameter < runs.size(); ++parameter) {
    if (step_.IsAbsent(parameter)) continue;
    const float* const gradient = state_.staging.as<float>() + runs[parameter].offset;
    pieces.push_back(std::as_bytes(std::span(gradient, runs[parameter].count)));
  }
  (void)state_.log->Append(pieces);
}

absl::Status Run::CheckSameGradient(const LastStep& last) {
  const codec::ChunkGrid& grid = session_.grid();
  for (size_t parameter = 0; parameter < parameters_.size(); ++parameter) {
    for (size_t cell = 0; cell < grid.CellsOf(parameter); ++cell) {
      const size_t index = grid.Index(parameter, cell);
      if (step_.fingerprints()[index] == last.fingerprints[index]) continue;
      return WithMetadata(
          WithReason(
              FailedPrecondition(
                  "step {} was applied with another gradient of parameter {} ('{}'); send "
                  "step {} next, or go back by importing a state",
                  last.plan.step, parameter, parameters_[parameter].name, last.plan.step + 1),
              "RESEND_DIFFERS"),
          "parameter", parameters_[parameter].name);
    }
  }
  return absl::OkStatus();
}

absl::Status Run::Replay() {
  const LastStep& last = *state_.last;
  FAIL_POINT("step.replay");
  MNEMO_RETURN_IF_ERROR(CheckSameGradient(last));
  MNEMO_RETURN_IF_ERROR(ToDevice());
  if (last.zero_non_finite) {
    MNEMO_RETURN_IF_ERROR(backend_.ZeroNonFinite(TakingPart(last.plan), values()));
  }
  MNEMO_RETURN_IF_ERROR(optimizer_.Replay(*state_.optimizer, last.plan, values(), square_sums_));
  MNEMO_RETURN_IF_ERROR(FromDevice());
  step_.outcome() = last.outcome;
  step_.outcome().replayed = true;
  return absl::OkStatus();
}

}  // namespace

absl::Status RunStep(PendingStep& step, optim::Optimizer& optimizer, kernels::Backend& backend) {
  Run run(step, optimizer, backend);
  return step.kind() == StepKind::kApply ? run.Apply() : run.Replay();
}

}  // namespace mnemosyne::server
