#include "server/session/session_record.h"

#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/json_integer.h"
#include "base/status_macros.h"
#include "server/session/byte_codec.h"

namespace mnemosyne::server {
namespace {

using Json = nlohmann::json;

// JSON has no infinities: those are texts.
Json NumberToJson(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

double NumberFromJson(const Json& json) {
  if (json.is_number()) return json.get<double>();
  const auto text = json.get<std::string>();
  const double infinity = std::numeric_limits<double>::infinity();
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  return text == "inf" ? infinity : -infinity;
}

// A number that older versions did not write.
int IntegerOr(const Json& json, const char* name, int unset) {
  return json.contains(name) ? IntegerOf<int>(json[name]) : unset;
}

Json ValuesToJson(const std::map<std::string, double>& values) {
  Json json = Json::object();
  for (const auto& [name, value] : values) json[name] = NumberToJson(value);
  return json;
}

std::map<std::string, double> ValuesFromJson(const Json& json) {
  std::map<std::string, double> values;
  for (const auto& [name, value] : json.items()) values[name] = NumberFromJson(value);
  return values;
}

Json ParameterToJson(const optim::ParameterSpec& parameter) {
  Json json = {{"name", parameter.name},
               {"shape", parameter.shape},
               {"type", static_cast<int>(parameter.data_type)},
               {"group", parameter.group},
               {"role", parameter.role}};
  if (parameter.fan_in_axis) json["fan_in_axis"] = *parameter.fan_in_axis;
  if (parameter.fan_in) json["fan_in"] = *parameter.fan_in;
  if (parameter.fan_out) json["fan_out"] = *parameter.fan_out;
  return json;
}

optim::ParameterSpec ParameterFromJson(const Json& json) {
  optim::ParameterSpec parameter;
  parameter.name = json.at("name");
  parameter.shape = IntegersOf<int64_t>(json.at("shape"));
  parameter.data_type = static_cast<DataType>(IntegerOf<int>(json.at("type")));
  parameter.group = IntegerOf<size_t>(json.at("group"));
  parameter.role = json.at("role");
  if (json.contains("fan_in_axis")) parameter.fan_in_axis = IntegerOf<int32_t>(json["fan_in_axis"]);
  if (json.contains("fan_in")) parameter.fan_in = IntegerOf<int64_t>(json["fan_in"]);
  if (json.contains("fan_out")) parameter.fan_out = IntegerOf<int64_t>(json["fan_out"]);
  return parameter;
}

Json SpecToJson(const SessionSpec& spec) {
  Json groups = Json::array();
  for (const GroupSpec& group : spec.groups) {
    groups.push_back({{"name", group.name}, {"values", ValuesToJson(group.hyperparameters)}});
  }
  Json json = {{"optimizer", spec.optimizer},
               {"version", spec.optimizer_version},
               {"weights_hash", spec.weights_hash},
               {"groups", groups},
               {"values", ValuesToJson(spec.hyperparameters)},
               {"schedule",
                {{"shape", static_cast<int>(spec.schedule.shape)},
                 {"warmup_steps", spec.schedule.warmup_steps},
                 {"total_steps", spec.schedule.total_steps},
                 {"final_factor", spec.schedule.final_factor}}},
               {"non_finite", static_cast<int>(spec.policy.non_finite)},
               {"label", spec.label},
               {"durability", static_cast<int>(spec.durability)},
               {"state_precision", static_cast<int>(spec.state_precision)}};
  if (spec.policy.global_norm_max) json["global_norm_max"] = *spec.policy.global_norm_max;
  if (spec.policy.tensor_norm_max) json["tensor_norm_max"] = *spec.policy.tensor_norm_max;
  if (spec.horizon) json["horizon"] = *spec.horizon;
  return json;
}

SessionSpec SpecOfJson(const Json& json) {
  SessionSpec spec;
  spec.optimizer = json.at("optimizer");
  spec.optimizer_version = json.at("version");
  spec.weights_hash = json.at("weights_hash");
  for (const Json& group : json.at("groups")) {
    spec.groups.push_back({group.at("name"), ValuesFromJson(group.at("values"))});
  }
  spec.hyperparameters = ValuesFromJson(json.at("values"));
  const Json& schedule = json.at("schedule");
  spec.schedule.shape =
      static_cast<optim::LearningRateSchedule::Shape>(IntegerOf<int>(schedule.at("shape")));
  spec.schedule.warmup_steps = IntegerOf<int64_t>(schedule.at("warmup_steps"));
  spec.schedule.total_steps = IntegerOf<int64_t>(schedule.at("total_steps"));
  spec.schedule.final_factor = schedule.at("final_factor");
  spec.policy.non_finite =
      static_cast<optim::NonFinitePolicy>(IntegerOf<int>(json.at("non_finite")));
  spec.label = json.at("label");
  spec.durability = static_cast<Durability>(IntegerOr(json, "durability", 0));
  spec.state_precision = static_cast<optim::StatePrecision>(IntegerOr(json, "state_precision", 0));
  if (json.contains("global_norm_max")) {
    spec.policy.global_norm_max = json["global_norm_max"].get<double>();
  }
  if (json.contains("tensor_norm_max")) {
    spec.policy.tensor_norm_max = json["tensor_norm_max"].get<double>();
  }
  if (json.contains("horizon")) spec.horizon = IntegerOf<int64_t>(json["horizon"]);
  return spec;
}

void Put(ByteWriter& out, const StepRequest& request) {
  out.Put(request.number);
  out.Put(request.loss);
  out.Put(request.learning_rate_factors);
  out.Put(request.learning_rates);
  out.Put(request.parameter_rms);
  out.Put(request.absent_parameters);
}

void Get(ByteReader& in, StepRequest& request) {
  in.Get(request.number);
  in.Get(request.loss);
  in.Get(request.learning_rate_factors);
  in.Get(request.learning_rates);
  in.Get(request.parameter_rms);
  in.Get(request.absent_parameters);
}

}  // namespace

absl::StatusOr<std::string> ToJson(const SessionSpec& spec) {
  try {
    return SpecToJson(spec).dump();
  } catch (const Json::exception& error) {
    return Internal("a spec cannot be written: {}", error.what());
  }
}

absl::StatusOr<SessionSpec> SpecFromJson(std::string_view json) {
  try {
    return SpecOfJson(Json::parse(json));
  } catch (const std::exception& error) {
    return DataLoss("wrong spec: {}", error.what());
  }
}

absl::StatusOr<std::string> ToJson(const SessionRecord& record) {
  try {
    Json parameters = Json::array();
    for (const auto& parameter : record.spec.parameters) {
      parameters.push_back(ParameterToJson(parameter));
    }
    return Json{{"name", record.name},
                {"token", record.token},
                {"tenant", record.tenant},
                {"request_id", record.request_id},
                {"spec_fingerprint", record.spec_fingerprint},
                {"create_nanoseconds", record.create_nanoseconds},
                {"cell_elements", record.cell_elements},
                {"step", record.step},
                {"epoch", record.epoch},
                {"spec", SpecToJson(record.spec)},
                {"parameters", parameters}}
        .dump();
  } catch (const Json::exception& error) {
    return Internal("a session cannot be written: {}", error.what());
  }
}

absl::StatusOr<SessionRecord> RecordFromJson(std::string_view text) {
  try {
    const Json json = Json::parse(text);
    SessionRecord record;
    record.name = json.at("name");
    record.token = json.at("token");
    record.tenant = json.at("tenant");
    record.request_id = json.at("request_id");
    record.spec_fingerprint = IntegerOf<uint64_t>(json.at("spec_fingerprint"));
    record.create_nanoseconds = IntegerOf<int64_t>(json.at("create_nanoseconds"));
    record.cell_elements = IntegerOf<uint64_t>(json.at("cell_elements"));
    record.step = IntegerOf<int64_t>(json.at("step"));
    record.epoch = IntegerOf<int64_t>(json.at("epoch"));
    record.spec = SpecOfJson(json.at("spec"));
    for (const Json& parameter : json.at("parameters")) {
      record.spec.parameters.push_back(ParameterFromJson(parameter));
    }
    return record;
  } catch (const std::exception& error) {
    return DataLoss("wrong session: {}", error.what());
  }
}

std::vector<std::byte> ToBytes(const LastStep& last) {
  ByteWriter out;
  const optim::StepPlan& plan = last.plan;
  out.Put(plan.step);
  out.Put(plan.parameters.size());
  for (const optim::ParameterStep& part : plan.parameters) {
    out.Put(static_cast<uint8_t>(part.takes_part));
    out.Put(part.clock);
    out.Put(part.gradient_scale);
  }
  out.Put(plan.groups.size());
  for (const optim::GroupStep& group : plan.groups) {
    out.Put(group.learning_rate);
    out.Put(std::vector<double>(group.values.begin(), group.values.end()));
  }
  out.Put(plan.loss);
  out.Put(plan.horizon);
  out.Put(plan.parameter_rms);
  out.Put(last.fingerprints.size());
  for (const uint64_t fingerprint : last.fingerprints) out.Put(static_cast<int64_t>(fingerprint));
  const StepOutcome& outcome = last.outcome;
  out.Put(outcome.number);
  out.Put(outcome.gradient_norm);
  out.Put(outcome.update_norm);
  out.Put(outcome.clip_factor);
  out.Put(outcome.non_finite_count);
  out.Put(outcome.skipped.size());
  for (const size_t parameter : outcome.skipped) out.Put(parameter);
  out.Put(outcome.takes_part);
  out.Put(outcome.rules.size());
  for (const optim::UpdateRule& rule : outcome.rules) {
    out.Put(rule.decay);
    out.Put(rule.scale);
  }
  out.Put(static_cast<uint8_t>(outcome.guard.has_value()));
  if (outcome.guard) {
    out.Put(outcome.guard->level);
    out.Put(outcome.guard->trips);
    out.Put(outcome.guard->capped_chunks);
  }
  out.Put(static_cast<uint8_t>(last.zero_non_finite));
  return out.Take();
}

absl::StatusOr<LastStep> LastStepFromBytes(std::span<const std::byte> bytes) {
  ByteReader in(bytes);
  LastStep last;
  const auto count = [&]() -> size_t {
    size_t size = 0;
    in.Get(size);
    return in.ok() && size <= in.rest().size() ? size : 0;
  };
  optim::StepPlan& plan = last.plan;
  in.Get(plan.step);
  plan.parameters.resize(count());
  for (optim::ParameterStep& part : plan.parameters) {
    in.Get(part.takes_part);
    in.Get(part.clock);
    in.Get(part.gradient_scale);
  }
  plan.groups.resize(count());
  for (optim::GroupStep& group : plan.groups) {
    in.Get(group.learning_rate);
    std::vector<double> values;
    in.Get(values);
    group.values.assign(values.begin(), values.end());
  }
  in.Get(plan.loss);
  in.Get(plan.horizon);
  in.Get(plan.parameter_rms);
  last.fingerprints.resize(count());
  for (uint64_t& fingerprint : last.fingerprints) {
    int64_t value = 0;
    in.Get(value);
    fingerprint = static_cast<uint64_t>(value);
  }
  StepOutcome& outcome = last.outcome;
  in.Get(outcome.number);
  in.Get(outcome.gradient_norm);
  in.Get(outcome.update_norm);
  in.Get(outcome.clip_factor);
  in.Get(outcome.non_finite_count);
  outcome.skipped.resize(count());
  for (size_t& parameter : outcome.skipped) in.Get(parameter);
  outcome.takes_part.resize(count());
  for (size_t i = 0; i < outcome.takes_part.size(); ++i) {
    bool value = false;
    in.Get(value);
    outcome.takes_part[i] = value;
  }
  outcome.rules.resize(count());
  for (optim::UpdateRule& rule : outcome.rules) {
    in.Get(rule.decay);
    in.Get(rule.scale);
  }
  bool guarded = false;
  in.Get(guarded);
  if (guarded) {
    optim::GuardReport& guard = outcome.guard.emplace();
    in.Get(guard.level);
    in.Get(guard.trips);
    in.Get(guard.capped_chunks);
  }
  in.Get(last.zero_non_finite);
  if (!in.ok() || !in.rest().empty()) return DataLoss("wrong length of a last step");
  return last;
}

std::vector<std::byte> ToBytes(const LoggedStep& step) {
  ByteWriter out;
  Put(out, step.request);
  out.Put(step.previous_step);
  out.Put(step.spec);
  return out.Take();
}

absl::StatusOr<LoggedStep> LoggedStepFromBytes(std::span<const std::byte> bytes,
                                               std::span<const std::byte>& gradients) {
  ByteReader in(bytes);
  LoggedStep step;
  Get(in, step.request);
  in.Get(step.previous_step);
  in.Get(step.spec);
  if (!in.ok()) return DataLoss("a record of the log is too short");
  gradients = in.rest();
  return step;
}

}  // namespace mnemosyne::server
