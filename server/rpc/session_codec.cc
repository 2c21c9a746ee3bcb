#include "server/rpc/session_codec.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::server {
namespace {

using Shape = optim::LearningRateSchedule::Shape;

constexpr size_t kParameterNameBytesMax = 1024;

absl::Status InvalidSpec(absl::Status status) {
  return WithReason(std::move(status), "INVALID_SPEC");
}

absl::StatusOr<optim::ParameterSpec> ParameterFromProto(const v1::ParameterSpec& proto) {
  optim::ParameterSpec parameter;
  parameter.name = proto.name();
  if (parameter.name.size() > kParameterNameBytesMax) {
    return WithReason(InvalidArgument("a parameter's name has {} bytes, the most is {}",
                                      parameter.name.size(), kParameterNameBytesMax),
                      "INVALID_PARAMETER");
  }
  parameter.shape.assign(proto.shape().begin(), proto.shape().end());
  switch (proto.data_type()) {
    case v1::DATA_TYPE_UNSPECIFIED:
    case v1::DATA_TYPE_FLOAT32:
    case v1::DATA_TYPE_BFLOAT16:
    case v1::DATA_TYPE_FLOAT16:
    case v1::DATA_TYPE_FLOAT64:
      break;
    default:
      return WithReason(InvalidArgument("parameter '{}' has the unknown data type {}", proto.name(),
                                        static_cast<int>(proto.data_type())),
                        "INVALID_PARAMETER");
  }
  if (proto.data_type() != v1::DATA_TYPE_UNSPECIFIED) {
    parameter.data_type = static_cast<DataType>(proto.data_type());
  }
  if (proto.group() < 0) {
    return InvalidSpec(
        InvalidArgument("parameter '{}' names group {}", proto.name(), proto.group()));
  }
  parameter.group = static_cast<size_t>(proto.group());
  parameter.role = proto.role();
  if (proto.has_fan_in_axis()) {
    if (proto.fan_in_axis() < 0 || proto.fan_in_axis() >= proto.shape_size()) {
      return WithReason(InvalidArgument("parameter '{}' has fan_in_axis {}, but {} dimensions",
                                        proto.name(), proto.fan_in_axis(), proto.shape_size()),
                        "INVALID_PARAMETER");
    }
    parameter.fan_in_axis = proto.fan_in_axis();
  }
  if ((proto.has_fan_in() && proto.fan_in() < 1) || (proto.has_fan_out() && proto.fan_out() < 1)) {
    return WithReason(InvalidArgument("parameter '{}' has a fan-in or fan-out of {}, expected at "
                                      "least 1",
                                      proto.name(), std::min(proto.fan_in(), proto.fan_out())),
                      "INVALID_PARAMETER");
  }
  if (proto.has_fan_in()) parameter.fan_in = proto.fan_in();
  if (proto.has_fan_out()) parameter.fan_out = proto.fan_out();
  return parameter;
}

GroupSpec GroupFromProto(const v1::ParameterGroup& proto) {
  return {proto.name(), {proto.hyperparameters().begin(), proto.hyperparameters().end()}};
}

absl::StatusOr<optim::LearningRateSchedule> ScheduleFromProto(
    const v1::LearningRateSchedule& proto) {
  optim::LearningRateSchedule schedule;
  switch (proto.shape()) {
    case v1::LearningRateSchedule::SHAPE_UNSPECIFIED:
    case v1::LearningRateSchedule::SHAPE_CONSTANT:
      schedule.shape = Shape::kConstant;
      break;
    case v1::LearningRateSchedule::SHAPE_LINEAR:
      schedule.shape = Shape::kLinear;
      break;
    case v1::LearningRateSchedule::SHAPE_COSINE:
      schedule.shape = Shape::kCosine;
      break;
    default:
      return InvalidSpec(
          InvalidArgument("unknown shape {} of a schedule; use constant, linear or "
                          "cosine",
                          static_cast<int>(proto.shape())));
  }
  schedule.warmup_steps = proto.warmup_steps();
  schedule.total_steps = proto.total_steps();
  schedule.final_factor = proto.final_factor();
  return schedule;
}

void ClippingFromProto(const v1::GradientClipping& proto, optim::GradientPolicy& policy) {
  policy.global_norm_max.reset();
  policy.tensor_norm_max.reset();
  if (proto.has_global_norm()) policy.global_norm_max = proto.global_norm();
  if (proto.has_tensor_norm()) policy.tensor_norm_max = proto.tensor_norm();
}

absl::StatusOr<optim::NonFinitePolicy> NonFiniteFromProto(v1::NonFinitePolicy proto) {
  switch (proto) {
    case v1::NON_FINITE_POLICY_UNSPECIFIED:
    case v1::NON_FINITE_POLICY_REJECT:
      return optim::NonFinitePolicy::kReject;
    case v1::NON_FINITE_POLICY_SKIP:
      return optim::NonFinitePolicy::kSkip;
    case v1::NON_FINITE_POLICY_ZERO:
      return optim::NonFinitePolicy::kZero;
    default:
      return InvalidSpec(InvalidArgument("unknown non_finite_policy {}; use reject, skip or zero",
                                         static_cast<int>(proto)));
  }
}

v1::NonFinitePolicy NonFiniteToProto(optim::NonFinitePolicy policy) {
  switch (policy) {
    case optim::NonFinitePolicy::kSkip:
      return v1::NON_FINITE_POLICY_SKIP;
    case optim::NonFinitePolicy::kZero:
      return v1::NON_FINITE_POLICY_ZERO;
    case optim::NonFinitePolicy::kReject:
      break;
  }
  return v1::NON_FINITE_POLICY_REJECT;
}

void ScheduleToProto(const optim::LearningRateSchedule& schedule, v1::LearningRateSchedule& proto) {
  switch (schedule.shape) {
    case Shape::kConstant:
      proto.set_shape(v1::LearningRateSchedule::SHAPE_CONSTANT);
      break;
    case Shape::kLinear:
      proto.set_shape(v1::LearningRateSchedule::SHAPE_LINEAR);
      break;
    case Shape::kCosine:
      proto.set_shape(v1::LearningRateSchedule::SHAPE_COSINE);
      break;
  }
  proto.set_warmup_steps(schedule.warmup_steps);
  proto.set_total_steps(schedule.total_steps);
  proto.set_final_factor(schedule.final_factor);
}

void ParameterToProto(const optim::ParameterSpec& parameter, v1::ParameterSpec& proto) {
  proto.set_name(parameter.name);
  proto.mutable_shape()->Assign(parameter.shape.begin(), parameter.shape.end());
  proto.set_data_type(static_cast<v1::DataType>(parameter.data_type));
  proto.set_group(static_cast<int32_t>(parameter.group));
  proto.set_role(parameter.role);
  if (parameter.fan_in_axis) proto.set_fan_in_axis(*parameter.fan_in_axis);
  if (parameter.fan_in) proto.set_fan_in(*parameter.fan_in);
  if (parameter.fan_out) proto.set_fan_out(*parameter.fan_out);
}

void GuardToProto(const optim::GuardReport& guard, v1::GuardReport& proto) {
  proto.set_level(guard.level);
  proto.set_trips(guard.trips);
  proto.set_capped_chunks(guard.capped_chunks);
}

void Overwrite(const google::protobuf::Map<std::string, double>& from,
               std::map<std::string, double>& to) {
  for (const auto& [name, value] : from) to[name] = value;
}

absl::Status MergeGroups(const v1::SessionSpec& changes, SessionSpec& spec) {
  if (static_cast<size_t>(changes.groups_size()) != spec.groups.size()) {
    return InvalidSpec(InvalidArgument("wrong size: {} groups, expected {} as before",
                                       changes.groups_size(), spec.groups.size()));
  }
  for (size_t i = 0; i < spec.groups.size(); ++i) {
    Overwrite(changes.groups(static_cast<int>(i)).hyperparameters(),
              spec.groups[i].hyperparameters);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SessionSpec> FromProto(const v1::SessionSpec& proto) {
  SessionSpec spec;
  spec.optimizer = proto.optimizer();
  spec.optimizer_version = proto.optimizer_version();
  spec.weights_hash = proto.weights_hash();
  for (const v1::ParameterSpec& parameter : proto.parameters()) {
    MNEMO_ASSIGN_OR_RETURN(optim::ParameterSpec read, ParameterFromProto(parameter));
    spec.parameters.push_back(std::move(read));
  }
  for (const v1::ParameterGroup& group : proto.groups()) {
    spec.groups.push_back(GroupFromProto(group));
  }
  Overwrite(proto.hyperparameters(), spec.hyperparameters);
  MNEMO_ASSIGN_OR_RETURN(spec.schedule, ScheduleFromProto(proto.schedule()));
  ClippingFromProto(proto.clipping(), spec.policy);
  MNEMO_ASSIGN_OR_RETURN(spec.policy.non_finite, NonFiniteFromProto(proto.non_finite_policy()));
  if (proto.step_mode() != v1::STEP_MODE_UNSPECIFIED && proto.step_mode() != v1::STEP_MODE_ATOMIC) {
    return InvalidSpec(InvalidArgument("unknown step_mode {}; only atomic is served",
                                       static_cast<int>(proto.step_mode())));
  }
  if (proto.has_horizon()) {
    if (proto.horizon() < 1) {
      return InvalidSpec(InvalidArgument("horizon is {}, expected at least 1", proto.horizon()));
    }
    spec.horizon = proto.horizon();
  }
  if (proto.worker_count() < 0 || proto.worker_count() > 1) {
    return WithReason(
        InvalidArgument("worker_count is {}; only one worker is served yet", proto.worker_count()),
        "UNSUPPORTED");
  }
  switch (proto.state_precision()) {
    case v1::STATE_PRECISION_UNSPECIFIED:
    case v1::STATE_PRECISION_FULL:
      break;
    case v1::STATE_PRECISION_HALF:
      spec.state_precision = optim::StatePrecision::kHalf;
      break;
    default:
      return InvalidSpec(InvalidArgument("unknown state_precision {}; use full or half",
                                         static_cast<int>(proto.state_precision())));
  }
  switch (proto.durability()) {
    case v1::DURABILITY_UNSPECIFIED:
    case v1::DURABILITY_SNAPSHOT:
      break;
    case v1::DURABILITY_STEP:
      spec.durability = Durability::kStep;
      break;
    default:
      return InvalidSpec(InvalidArgument("unknown durability {}; use snapshot or step",
                                         static_cast<int>(proto.durability())));
  }
  spec.label = proto.label();
  return spec;
}

absl::Status MergeSpec(const v1::SessionSpec& changes, const google::protobuf::FieldMask& mask,
                       SessionSpec& spec) {
  if (mask.paths().empty()) {
    return InvalidSpec(InvalidArgument("update_mask is empty: name what to change"));
  }
  for (const std::string& path : mask.paths()) {
    if (path == "hyperparameters") {
      Overwrite(changes.hyperparameters(), spec.hyperparameters);
    } else if (path == "groups") {
      MNEMO_RETURN_IF_ERROR(MergeGroups(changes, spec));
    } else if (path == "schedule") {
      MNEMO_ASSIGN_OR_RETURN(spec.schedule, ScheduleFromProto(changes.schedule()));
    } else if (path == "clipping") {
      ClippingFromProto(changes.clipping(), spec.policy);
    } else if (path == "non_finite_policy") {
      MNEMO_ASSIGN_OR_RETURN(spec.policy.non_finite,
                             NonFiniteFromProto(changes.non_finite_policy()));
    } else if (path == "label") {
      spec.label = changes.label();
    } else {
      return InvalidSpec(InvalidArgument(
          "update_mask names '{}'; only hyperparameters, groups, schedule, clipping, "
          "non_finite_policy and label can change",
          path));
    }
  }
  return absl::OkStatus();
}

v1::SessionSpec SpecToProto(const Session& session, bool with_parameters) {
  const SessionSpec spec = session.spec();
  const auto rules = session.rules();
  v1::SessionSpec proto;
  proto.set_optimizer(spec.optimizer);
  proto.set_optimizer_version(spec.optimizer_version);
  proto.set_weights_hash(spec.weights_hash);
  if (with_parameters) {
    for (const optim::ParameterSpec& parameter : session.layout().parameters()) {
      ParameterToProto(parameter, *proto.add_parameters());
    }
  }
  const auto table = session.optimizer().hyperparameters;
  for (size_t group = 0; group < spec.groups.size(); ++group) {
    v1::ParameterGroup& target = *proto.add_groups();
    target.set_name(spec.groups[group].name);
    for (size_t i = 0; i < table.size(); ++i) {
      (*target.mutable_hyperparameters())[std::string(table[i].name)] = rules->groups[group][i];
    }
  }
  proto.mutable_hyperparameters()->insert(spec.hyperparameters.begin(), spec.hyperparameters.end());
  ScheduleToProto(spec.schedule, *proto.mutable_schedule());
  if (spec.policy.global_norm_max) {
    proto.mutable_clipping()->set_global_norm(*spec.policy.global_norm_max);
  }
  if (spec.policy.tensor_norm_max) {
    proto.mutable_clipping()->set_tensor_norm(*spec.policy.tensor_norm_max);
  }
  proto.set_non_finite_policy(NonFiniteToProto(spec.policy.non_finite));
  proto.set_step_mode(v1::STEP_MODE_ATOMIC);
  if (spec.horizon) proto.set_horizon(*spec.horizon);
  proto.set_worker_count(1);
  proto.set_durability(spec.durability == Durability::kStep ? v1::DURABILITY_STEP
                                                            : v1::DURABILITY_SNAPSHOT);
  proto.set_state_precision(spec.state_precision == optim::StatePrecision::kHalf
                                ? v1::STATE_PRECISION_HALF
                                : v1::STATE_PRECISION_FULL);
  proto.set_label(spec.label);
  return proto;
}

v1::Session ToProto(const Session& session, bool with_parameters) {
  const Session::Progress progress = session.progress();
  v1::Session proto;
  proto.set_name(session.name());
  *proto.mutable_spec() = SpecToProto(session, with_parameters);
  proto.set_epoch(progress.epoch);
  proto.set_last_step(progress.last_step);
  proto.set_last_durable_step(progress.last_durable_step);
  proto.set_durability_error(progress.durability_error);
  proto.set_resident(session.resident());
  proto.set_state_bytes(session.state_bytes());
  proto.set_reserved_bytes(session.reserved_bytes());
  proto.set_element_count(static_cast<int64_t>(session.layout().element_count()));
  *proto.mutable_create_time() = ToProto(session.create_time());
  if (progress.last_step_time) *proto.mutable_last_step_time() = ToProto(*progress.last_step_time);
  proto.set_streaming(progress.held);
  proto.set_device(session.device());
  proto.set_cell_elements(static_cast<int64_t>(session.grid().cell_elements()));
  if (progress.guard) GuardToProto(*progress.guard, *proto.mutable_guard());
  proto.set_non_finite_count(progress.non_finite_count);
  proto.set_skipped_count(progress.skipped_count);
  return proto;
}

v1::Optimizer ToProto(const optim::OptimizerInfo& info) {
  v1::Optimizer proto;
  proto.set_name(std::string(info.name));
  proto.set_version(std::string(info.version));
  proto.set_description(std::string(info.description));
  for (const optim::HyperparameterSpec& spec : info.hyperparameters) {
    v1::Hyperparameter& target = *proto.add_hyperparameters();
    target.set_name(std::string(spec.name));
    target.set_default_value(spec.default_value);
    target.set_minimum(spec.minimum);
    target.set_maximum(spec.maximum);
    target.set_description(std::string(spec.description));
    target.set_boolean(spec.boolean);
  }
  proto.set_state_bytes_per_element(info.state_bytes_per_element);
  proto.set_half_state(info.has_half_state);
  proto.set_learned(!info.weights_hash.empty());
  proto.set_weights_hash(std::string(info.weights_hash));
  return proto;
}

v1::ReloadModelsResponse ToProto(const ModelReload& reload) {
  const auto add = [](const auto& factories, auto& target) {
    for (const optim::OptimizerFactoryPtr& factory : factories) {
      v1::ModelVersion& model = *target.Add();
      model.set_name(std::string(factory->info().name));
      model.set_version(std::string(factory->info().version));
      model.set_weights_hash(std::string(factory->info().weights_hash));
    }
  };
  v1::ReloadModelsResponse proto;
  add(reload.loaded, *proto.mutable_loaded());
  add(reload.retired, *proto.mutable_retired());
  for (const ModelReload::Refusal& refusal : reload.refused) {
    v1::RefusedModel& model = *proto.add_refused();
    model.set_name(refusal.name);
    model.set_version(refusal.version);
    model.set_reason(refusal.reason);
  }
  return proto;
}

StepRequest FromProto(const v1::StepBegin& proto) {
  StepRequest request;
  request.number = proto.step();
  if (proto.has_loss()) request.loss = proto.loss();
  request.learning_rate_factors.assign(proto.learning_rate_factors().begin(),
                                       proto.learning_rate_factors().end());
  request.learning_rates.assign(proto.learning_rates().begin(), proto.learning_rates().end());
  request.parameter_rms.assign(proto.parameter_rms().begin(), proto.parameter_rms().end());
  request.absent_parameters.assign(proto.absent_parameters().begin(),
                                   proto.absent_parameters().end());
  return request;
}

v1::StepDone ToProto(const StepOutcome& outcome, const Session::Progress& progress) {
  v1::StepDone done;
  done.set_last_durable_step(progress.last_durable_step);
  done.set_durability_error(progress.durability_error);
  done.set_step(outcome.number);
  done.set_gradient_norm(outcome.gradient_norm);
  done.set_update_norm(outcome.update_norm);
  done.set_clip_factor(outcome.clip_factor);
  done.set_non_finite_count(outcome.non_finite_count);
  for (const size_t parameter : outcome.skipped) {
    done.add_skipped_parameters(static_cast<int32_t>(parameter));
  }
  done.set_replayed(outcome.replayed);
  done.set_receive_seconds(outcome.receive_seconds);
  done.set_queue_seconds(outcome.queue_seconds);
  done.set_compute_seconds(outcome.compute_seconds);
  if (outcome.guard) GuardToProto(*outcome.guard, *done.mutable_guard());
  return done;
}

absl::StatusOr<DataType> WireEncoding(v1::DataType type, std::string_view what) {
  if (type == v1::DATA_TYPE_UNSPECIFIED) return DataType::kFloat32;
  const auto encoding = static_cast<DataType>(type);
  if (IsWireType(encoding)) return encoding;
  return WithReason(
      InvalidArgument("{} is {}; use float32, bfloat16 or float16", what, static_cast<int>(type)),
      "UNSUPPORTED");
}

google::protobuf::Timestamp ToProto(Clock::Time time) {
  const auto nanos =
      std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
  google::protobuf::Timestamp proto;
  proto.set_seconds(nanos / 1'000'000'000);
  proto.set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  return proto;
}

}  // namespace mnemosyne::server
