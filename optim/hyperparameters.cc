#include "optim/hyperparameters.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::optim {
namespace {

absl::Status CheckValue(const HyperparameterSpec& spec, double value) {
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

absl::Status Override(std::span<const HyperparameterSpec> table,
                      const std::map<std::string, double>& given, HyperparameterValues& values) {
  for (const auto& [name, value] : given) {
    const auto spec = std::find_if(table.begin(), table.end(),
                                   [&](const HyperparameterSpec& s) { return s.name == name; });
    if (spec == table.end()) {
      std::vector<std::string_view> names;
      for (const HyperparameterSpec& known : table) names.push_back(known.name);
      return InvalidArgument("unknown hyper-parameter: {}, expected one of {}", name,
                             fmt::join(names, ", "));
    }
    MNEMO_RETURN_IF_ERROR(CheckValue(*spec, value));
    values[static_cast<size_t>(spec - table.begin())] = value;
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
