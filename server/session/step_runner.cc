#include "server/session/step_runner.h"

#include <cmath>
#include <memory>
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

// One step at work: its session's memory, seen from the device. A step that is applied goes through
// Begin, Decide, the update, Fetch and End, those of several sessions together.
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

  // Sends the gradients to the device; may return before they are there.
  absl::Status Begin();
  // What is to be measured of them; valid as long as this is.
  kernels::GradientStatisticsArgs Measurement();
  // Decides by what was measured, and notes the step in the log.
  absl::Status Decide();
  // From the update on the state changes: any failure is final.
  optim::Optimizer::SharedStep Update();
  // Gets the updates; may return before they are there.
  absl::Status Fetch();
  void End();

  absl::Status Replay();

  PendingStep& step() { return step_; }
  absl::Status status;

 private:
  float* values() {
    return state_.values.empty() ? state_.staging.as<float>() : state_.values.as<float>();
  }
  optim::StepPlan MakePlan() const;
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
  optim::StepPlan plan_;
  std::vector<kernels::Segment> segments_;  // Of those that take part, as they were sent.
  std::vector<kernels::GradientStatistics> measured_;
  optim::GradientVerdict verdict_;
};

absl::Status Run::Begin() {
  plan_ = MakePlan();
  FAIL_POINT("step.upload");
  if (state_.values.empty()) return absl::OkStatus();
  return backend_.UploadLater(state_.staging.data(), state_.values.data(), state_.values.size());
}

kernels::GradientStatisticsArgs Run::Measurement() {
  segments_ = TakingPart(plan_);
  measured_.resize(segments_.size());
  return {.segments = segments_, .values = values(), .statistics = measured_};
}

absl::Status Run::Fetch() {
  FAIL_POINT("step.download");
  if (state_.values.empty()) return absl::OkStatus();
  return backend_.DownloadLater(state_.values.data(), state_.staging.data(), state_.values.size());
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

absl::Status Run::Decide() {
  std::vector<kernels::GradientStatistics> statistics(parameters_.size());
  size_t next = 0;
  for (size_t parameter = 0; parameter < parameters_.size(); ++parameter) {
    if (plan_.parameters[parameter].takes_part) statistics[parameter] = measured_[next++];
  }
  MNEMO_ASSIGN_OR_RETURN(
      verdict_, optim::ApplyGradientPolicy(step_.rules().policy, statistics, parameters_, plan_));
  if (state_.log != nullptr) LogStep();
  if (!verdict_.zero_non_finite) return absl::OkStatus();
  return backend_.ZeroNonFinite(TakingPart(plan_), values());
}

optim::Optimizer::SharedStep Run::Update() {
  FAIL_POINT("step.update");
  return {*state_.optimizer, plan_, values(), square_sums_, {}};
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

void Run::End() {
  const bool zero_non_finite = verdict_.zero_non_finite;
  FillOutcome(plan_, std::move(verdict_));
  for (size_t parameter = 0; parameter < parameters_.size(); ++parameter) {
    if (plan_.parameters[parameter].takes_part) ++state_.clocks[parameter];
  }
  state_.last_step = plan_.step;
  state_.last = LastStep{.plan = std::move(plan_),
                         .fingerprints = std::move(step_.fingerprints()),
                         .outcome = step_.outcome(),
                         .zero_non_finite = zero_non_finite};
  FAIL_POINT("step.updated");
  session_.ReportStep(step_.outcome());
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
  if (!state_.values.empty()) {
    MNEMO_RETURN_IF_ERROR(
        backend_.Upload(state_.staging.data(), state_.values.data(), state_.values.size()));
  }
  if (last.zero_non_finite) {
    MNEMO_RETURN_IF_ERROR(backend_.ZeroNonFinite(TakingPart(last.plan), values()));
  }
  MNEMO_RETURN_IF_ERROR(optimizer_.Replay(*state_.optimizer, last.plan, values(), square_sums_));
  MNEMO_RETURN_IF_ERROR(Fetch());
  MNEMO_RETURN_IF_ERROR(backend_.Synchronize());
  step_.outcome() = last.outcome;
  step_.outcome().replayed = true;
  return absl::OkStatus();
}

// Measures the gradients of all, together where there is room.
void Measure(std::span<Run* const> runs, kernels::Backend& backend) {
  std::vector<kernels::GradientStatisticsArgs> all;
  for (Run* const run : runs) all.push_back(run->Measurement());
  const absl::Status shared = backend.MeasureManyGradients(all);
  const bool apart = all.size() > 1 && absl::IsResourceExhausted(shared);
  for (size_t i = 0; i < runs.size(); ++i) {
    runs[i]->status = apart ? backend.MeasureGradients(all[i]) : shared;
  }
}

// Drops those that failed.
void KeepGood(std::vector<Run*>& runs) {
  std::erase_if(runs, [](const Run* run) { return !run->status.ok(); });
}

void Apply(std::vector<Run*> runs, optim::Optimizer& optimizer, kernels::Backend& backend) {
  for (Run* const run : runs) run->status = run->Begin();
  KeepGood(runs);
  if (runs.empty()) return;
  Measure(runs, backend);
  KeepGood(runs);
  for (Run* const run : runs) run->status = run->Decide();
  KeepGood(runs);
  if (runs.empty()) return;

  std::vector<optim::Optimizer::SharedStep> updates;
  updates.reserve(runs.size());
  for (Run* const run : runs) updates.push_back(run->Update());
  optimizer.UpdateMany(updates);
  for (size_t i = 0; i < runs.size(); ++i) runs[i]->status = AsInternal(updates[i].status);
  KeepGood(runs);
  for (Run* const run : runs) run->status = AsInternal(run->Fetch());
  KeepGood(runs);
  const absl::Status fetched = AsInternal(backend.Synchronize());
  for (Run* const run : runs) {
    run->status = fetched;
    if (fetched.ok()) run->End();
  }
}

}  // namespace

std::vector<absl::Status> RunSteps(std::span<PendingStep* const> steps, optim::Optimizer& optimizer,
                                   kernels::Backend& backend) {
  std::vector<std::unique_ptr<Run>> runs;
  std::vector<Run*> applied;
  for (PendingStep* const step : steps) {
    runs.push_back(std::make_unique<Run>(*step, optimizer, backend));
    if (step->kind() == StepKind::kApply) applied.push_back(runs.back().get());
  }
  Apply(std::move(applied), optimizer, backend);
  std::vector<absl::Status> statuses;
  for (const std::unique_ptr<Run>& run : runs) {
    if (run->step().kind() != StepKind::kApply) run->status = run->Replay();
    statuses.push_back(run->status);
  }
  return statuses;
}

absl::Status RunStep(PendingStep& step, optim::Optimizer& optimizer, kernels::Backend& backend) {
  PendingStep* const steps[] = {&step};
  return RunSteps(steps, optimizer, backend)[0];
}

}  // namespace mnemosyne::server
