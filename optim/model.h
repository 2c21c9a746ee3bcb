// Meta-trained weights with all that says what they are.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/safetensors.h"
#include "optim/model_config.h"

namespace mnemosyne::optim {

// A model file, as metatrain/ exports it: float32 tensors, and in the metadata `format`
// (mnemosyne-theta-1) and `config`, a JSON object with the `kind` of optimizer that the weights are
// of, and its sizes. Immutable and shared; any thread.
class Model {
 public:
  // `name` and `version` are how sessions call it. InvalidArgument says what is wrong with the
  // file.
  static absl::StatusOr<std::shared_ptr<const Model>> Create(std::string name, std::string version,
                                                             Safetensors file);

  const std::string& name() const { return name_; }
  const std::string& version() const { return version_; }
  const std::string& kind() const { return kind_; }
  const ModelConfig& config() const { return config_; }
  const std::string& hash() const { return file_.hash(); }
  const Safetensors& file() const { return file_; }

 private:
  Model(std::string name, std::string version, std::string kind, ModelConfig config,
        Safetensors file);

  const std::string name_;
  const std::string version_;
  const std::string kind_;
  const ModelConfig config_;
  const Safetensors file_;
};

// Takes the tensors of a model one by one, each with the shape that the config asks for.
class ModelTensors {
 public:
  // `model` outlives this.
  explicit ModelTensors(const Model& model) : model_(model) {}

  // The elements of a tensor, row-major. InvalidArgument names it if it is missing, not float32, of
  // another shape, or not finite.
  absl::StatusOr<std::vector<float>> Take(std::string_view name, std::span<const int64_t> shape);

  // Ok if every tensor was taken; else InvalidArgument names one that was not.
  absl::Status Finish() const;

 private:
  const Model& model_;
  std::set<std::string_view> taken_;
};

}  // namespace mnemosyne::optim
