#include "optim/model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::optim {
namespace {

constexpr std::string_view kFormat = "mnemosyne-theta-1";

absl::StatusOr<std::string> Metadata(const Safetensors& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) {
    return InvalidArgument("not a model: the metadata have no '{}'", key);
  }
  return found->second;
}

}  // namespace

Model::Model(std::string name, std::string version, std::string kind, ModelConfig config,
             Safetensors file)
    : name_(std::move(name)),
      version_(std::move(version)),
      kind_(std::move(kind)),
      config_(std::move(config)),
      file_(std::move(file)) {}

absl::StatusOr<std::shared_ptr<const Model>> Model::Create(std::string name, std::string version,
                                                           Safetensors file) {
  MNEMO_ASSIGN_OR_RETURN(const std::string format, Metadata(file, "format"));
  if (format != kFormat) {
    return InvalidArgument("unknown format: '{}', expected '{}'", format, kFormat);
  }
  MNEMO_ASSIGN_OR_RETURN(const std::string text, Metadata(file, "config"));
  MNEMO_ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::Parse(text));
  MNEMO_ASSIGN_OR_RETURN(std::string kind, config.Text("kind"));
  return std::shared_ptr<const Model>(new Model(
      std::move(name), std::move(version), std::move(kind), std::move(config), std::move(file)));
}

absl::StatusOr<std::vector<float>> ModelTensors::Take(std::string_view name,
                                                      std::span<const int64_t> shape) {
  const SafetensorsTensor* const tensor = model_.file().Find(name);
  if (tensor == nullptr) {
    return InvalidArgument("missing tensor: '{}', of shape [{}]", name, fmt::join(shape, ", "));
  }
  if (!std::ranges::equal(tensor->shape, shape)) {
    return InvalidArgument("wrong shape: tensor '{}' is [{}], the config asks for [{}]", name,
                           fmt::join(tensor->shape, ", "), fmt::join(shape, ", "));
  }
  MNEMO_ASSIGN_OR_RETURN(std::vector<float> values, model_.file().Floats(*tensor));
  const auto bad = std::ranges::find_if(values, [](float value) { return !std::isfinite(value); });
  if (bad != values.end()) {
    return InvalidArgument("not finite: tensor '{}', element {}", name, bad - values.begin());
  }
  taken_.insert(tensor->name);
  return values;
}

absl::Status ModelTensors::Finish() const {
  for (const SafetensorsTensor& tensor : model_.file().tensors()) {
    if (taken_.contains(tensor.name)) continue;
    return InvalidArgument("unknown tensor: '{}' is none of a model of kind {} with this config",
                           tensor.name, model_.kind());
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne::optim
