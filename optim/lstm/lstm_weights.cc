#include "optim/lstm/lstm_weights.h"

#include <array>
#include <string>

#include "base/check.h"
#include "base/status_macros.h"

namespace mnemosyne::optim {
namespace {

constexpr size_t kGates = 4;

absl::StatusOr<std::vector<float>> TakeMatrix(ModelTensors& tensors, const std::string& name,
                                              size_t rows, size_t columns) {
  const std::array shape = {static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
  return tensors.Take(name, shape);
}

absl::StatusOr<std::vector<float>> TakeVector(ModelTensors& tensors, const std::string& name,
                                              size_t size) {
  const std::array shape = {static_cast<int64_t>(size)};
  return tensors.Take(name, shape);
}

absl::Status PackInputLayer(ModelTensors& tensors, LstmWeights& weights) {
  const size_t hidden = weights.sizes.hidden;
  MNEMO_ASSIGN_OR_RETURN(const auto w, TakeMatrix(tensors, "learned.in.w", 2, hidden));
  MNEMO_ASSIGN_OR_RETURN(const auto b, TakeVector(tensors, "learned.in.b", hidden));
  for (size_t unit = 0; unit < hidden; ++unit) {
    weights.packed.insert(weights.packed.end(), {w[unit], w[hidden + unit], b[unit]});
  }
  return absl::OkStatus();
}

absl::Status PackLayer(ModelTensors& tensors, size_t layer, LstmWeights& weights) {
  const std::string name = "learned.layer" + std::to_string(layer);
  const size_t hidden = weights.sizes.hidden;
  const size_t inputs = kernels::LstmInputCount(weights.sizes, layer);
  const size_t columns = kGates * hidden;
  MNEMO_ASSIGN_OR_RETURN(const auto w, TakeMatrix(tensors, name + ".w", inputs, columns));
  MNEMO_ASSIGN_OR_RETURN(const auto b, TakeVector(tensors, name + ".b", columns));
  for (size_t unit = 0; unit < hidden; ++unit) {
    for (size_t gate = 0; gate < kGates; ++gate) {
      weights.packed.push_back(b[gate * hidden + unit]);
    }
    for (size_t input = 0; input < inputs; ++input) {
      for (size_t gate = 0; gate < kGates; ++gate) {
        weights.packed.push_back(w[input * columns + gate * hidden + unit]);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status PackReadOut(ModelTensors& tensors, LstmWeights& weights) {
  MNEMO_ASSIGN_OR_RETURN(const auto w,
                         TakeMatrix(tensors, "learned.out.w", weights.sizes.hidden, 1));
  MNEMO_ASSIGN_OR_RETURN(const auto b, TakeVector(tensors, "learned.out.b", 1));
  weights.packed.insert(weights.packed.end(), w.begin(), w.end());
  weights.packed.push_back(b[0]);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LstmWeights> ReadLstmWeights(const Model& model) {
  constexpr double kOutputScaleMax = 1e3;
  LstmWeights weights;
  weights.sizes.normalized = model.kind() == "rnnprop";
  const ModelConfig& config = model.config();
  MNEMO_ASSIGN_OR_RETURN(weights.sizes.layers, config.Size("layers", 1, kernels::kLstmLayersMax));
  MNEMO_ASSIGN_OR_RETURN(weights.sizes.hidden, config.Size("hidden", 1, kernels::kLstmHiddenMax));
  MNEMO_ASSIGN_OR_RETURN(const double scale, config.Number("output_scale", 0, kOutputScaleMax));
  weights.output_scale = static_cast<float>(scale);

  ModelTensors tensors(model);
  if (weights.sizes.normalized) MNEMO_RETURN_IF_ERROR(PackInputLayer(tensors, weights));
  for (size_t layer = 0; layer < weights.sizes.layers; ++layer) {
    MNEMO_RETURN_IF_ERROR(PackLayer(tensors, layer, weights));
  }
  MNEMO_RETURN_IF_ERROR(PackReadOut(tensors, weights));
  MNEMO_RETURN_IF_ERROR(tensors.Finish());
  MNEMO_CHECK(weights.packed.size() == kernels::LstmWeightCount(weights.sizes));
  return weights;
}

}  // namespace mnemosyne::optim
