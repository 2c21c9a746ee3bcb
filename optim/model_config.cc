#include "optim/model_config.h"

#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::optim {
namespace {

using Json = nlohmann::json;

absl::StatusOr<double> CheckNumber(std::string_view name, const Json& value, double minimum,
                                   double maximum) {
  if (value.is_number()) {
    const double number = value.get<double>();
    if (std::isfinite(number) && number >= minimum && number <= maximum) return number;
  }
  return InvalidArgument("wrong config: {} is not a number from {} to {}", name, minimum, maximum);
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfig::Parse(std::string_view text) {
  Json object = Json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return InvalidArgument("wrong config: it is not a JSON object");
  return ModelConfig(std::move(object));
}

absl::StatusOr<const Json*> ModelConfig::Find(std::string_view name) const {
  const auto found = object_.find(name);
  if (found == object_.end()) return InvalidArgument("wrong config: {} is missing", name);
  return &*found;
}

absl::StatusOr<std::string> ModelConfig::Text(std::string_view name) const {
  MNEMO_ASSIGN_OR_RETURN(const Json* value, Find(name));
  if (!value->is_string()) return InvalidArgument("wrong config: {} is not a text", name);
  return value->get<std::string>();
}

absl::StatusOr<bool> ModelConfig::Boolean(std::string_view name) const {
  MNEMO_ASSIGN_OR_RETURN(const Json* value, Find(name));
  if (!value->is_boolean()) return InvalidArgument("wrong config: {} is not true or false", name);
  return value->get<bool>();
}

absl::StatusOr<size_t> ModelConfig::Size(std::string_view name, size_t minimum,
                                         size_t maximum) const {
  MNEMO_ASSIGN_OR_RETURN(const Json* value, Find(name));
  if (value->is_number_unsigned()) {
    const auto size = value->get<uint64_t>();
    if (size >= minimum && size <= maximum) return static_cast<size_t>(size);
  }
  return InvalidArgument("wrong config: {} is not a whole number from {} to {}", name, minimum,
                         maximum);
}

absl::StatusOr<double> ModelConfig::Number(std::string_view name, double minimum,
                                           double maximum) const {
  MNEMO_ASSIGN_OR_RETURN(const Json* value, Find(name));
  return CheckNumber(name, *value, minimum, maximum);
}

absl::StatusOr<std::vector<double>> ModelConfig::Numbers(std::string_view name, double minimum,
                                                         double maximum) const {
  MNEMO_ASSIGN_OR_RETURN(const Json* value, Find(name));
  if (!value->is_array()) return InvalidArgument("wrong config: {} is not a list", name);
  std::vector<double> numbers;
  for (const Json& entry : *value) {
    MNEMO_ASSIGN_OR_RETURN(const double number, CheckNumber(name, entry, minimum, maximum));
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<ModelConfig> ModelConfig::Table(std::string_view name) const {
  MNEMO_ASSIGN_OR_RETURN(const Json* value, Find(name));
  if (!value->is_object()) return InvalidArgument("wrong config: {} is not an object", name);
  return ModelConfig(*value);
}

}  // namespace mnemosyne::optim
