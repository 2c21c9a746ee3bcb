// The configuration of a model: the JSON object in the metadata of its weights, which says its kind
// and its sizes.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace mnemosyne::optim {

// Reads values by name and checks them. InvalidArgument names the value and says what is allowed.
// Values that nobody asks for are passed over. Immutable; any thread.
class ModelConfig {
 public:
  // InvalidArgument if `text` is not a JSON object.
  static absl::StatusOr<ModelConfig> Parse(std::string_view text);

  absl::StatusOr<std::string> Text(std::string_view name) const;
  absl::StatusOr<bool> Boolean(std::string_view name) const;
  absl::StatusOr<size_t> Size(std::string_view name, size_t minimum, size_t maximum) const;

  // Finite, and within the bounds.
  absl::StatusOr<double> Number(std::string_view name, double minimum, double maximum) const;
  absl::StatusOr<std::vector<double>> Numbers(std::string_view name, double minimum,
                                              double maximum) const;

  // An object within.
  absl::StatusOr<ModelConfig> Table(std::string_view name) const;

 private:
  explicit ModelConfig(nlohmann::json object) : object_(std::move(object)) {}

  absl::StatusOr<const nlohmann::json*> Find(std::string_view name) const;

  nlohmann::json object_;
};

}  // namespace mnemosyne::optim
