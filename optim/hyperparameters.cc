#include "optim/hyperparameters.h"

#include <fmt/ranges.h>

#include <cmath>
#include <cstddef>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::optim {
namespace {

absl::Status CheckBounds(const HyperparameterSpec& spec, double value) {
  if (spec.boolean && value != 0 && value != 1) {
    return InvalidArgument("wrong hyper-parameter: {} is {}, expected 0 or 1", spec.name, value);
  }
  if (std::isfinite(value) && value >= spec.minimum && value <= spec.maximum) {
    return absl::OkStatus();
  }
  if (std::isinf(spec.maximum)) {
    return InvalidArgument("wrong hyper-parameter: {} is {}, expected a finite number from {}",
                           spec.name, value, spec.minimum);
  }
  return InvalidArgument("wrong hyper-parameter: {} is {}, expected a number from {} to {}",
                         spec.name, value, spec.minimum, spec.maximum);
}

absl::Status CheckValue(const HyperparameterSpec& spec, double value) {
  const absl::Status status = CheckBounds(spec, value);
  return status.ok() ? status : WithReason(status, "INVALID_HYPERPARAMETER");
}

absl::StatusOr<size_t> FindPosition(std::span<const HyperparameterSpec> table,
                                    std::string_view name) {
  std::vector<std::string_view> names;
  for (size_t i = 0; i < table.size(); ++i) {
    if (table[i].name == name) return i;
    names.push_back(table[i].name);
  }
  return WithReason(InvalidArgument("unknown hyper-parameter: {}, expected one of {}", name,
                                    fmt::join(names, ", ")),
                    "UNKNOWN_HYPERPARAMETER");
}

absl::Status Override(std::span<const HyperparameterSpec> table,
                      const std::map<std::string, double>& given, HyperparameterValues& values) {
  for (const auto& [name, value] : given) {
    MNEMO_ASSIGN_OR_RETURN(const size_t position, FindPosition(table, name));
    MNEMO_RETURN_IF_ERROR(CheckValue(table[position], value));
    values[position] = value;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HyperparameterValues> ResolveHyperparameters(
    std::span<const HyperparameterSpec> table, const std::map<std::string, double>& session,
    const std::map<std::string, double>& group) {
  HyperparameterValues values;
  for (const HyperparameterSpec& spec : table) values.push_back(spec.default_value);
  MNEMO_RETURN_IF_ERROR(Override(table, session, values));
  MNEMO_RETURN_IF_ERROR(Override(table, group, values));
  return values;
}

}  // namespace mnemosyne::optim
