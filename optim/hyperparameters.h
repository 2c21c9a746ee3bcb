// Hyper-parameters: what an optimizer declares, and values checked against that.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace mnemosyne::optim {

// A number that a session or one of its groups may set.
struct HyperparameterSpec {
  std::string_view name;
  double default_value;
  double minimum;
  double maximum;  // Infinity where there is none.
  std::string_view description;
  bool boolean = false;  // Only 0 and 1 are allowed.
};

// Values in the order of the optimizer's table.
using HyperparameterValues = std::vector<double>;

// Fills in defaults, then `session` values, then `group` values over them. InvalidArgument
// with reason UNKNOWN_HYPERPARAMETER for a name that the table lacks (the message lists those it
// has), INVALID_HYPERPARAMETER for a value outside its bounds or NaN.
absl::StatusOr<HyperparameterValues> ResolveHyperparameters(
    std::span<const HyperparameterSpec> table, const std::map<std::string, double>& session,
    const std::map<std::string, double>& group);

}  // namespace mnemosyne::optim
