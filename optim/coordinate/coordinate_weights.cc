#include "optim/coordinate/coordinate_weights.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/components/feature_map.h"

namespace mnemosyne::optim {
namespace {

// Of the ReLU map, as metatrain's dense.py has it.
constexpr double kFeatureEpsilon = 1e-2;

constexpr double kBelowOne = 1 - 1e-9;

class Reader {
 public:
  explicit Reader(const Model& model) : config_(model.config()), tensors_(model) {}

  absl::StatusOr<CoordinateWeights> Read() {
    MNEMO_RETURN_IF_ERROR(ReadConfig());
    MNEMO_RETURN_IF_ERROR(ReadKnobs());
    MNEMO_RETURN_IF_ERROR(ReadMemory());
    MNEMO_RETURN_IF_ERROR(ReadPerceptron());
    MNEMO_RETURN_IF_ERROR(tensors_.Finish());
    MNEMO_CHECK(out_.packed.size() == kernels::CoordinateWeightCount(sizes_));
    return std::move(out_);
  }

 private:
  absl::Status ReadConfig() {
    constexpr size_t kMax = kernels::kCoordinateWidthMax;
    MNEMO_ASSIGN_OR_RETURN(sizes_.key_width, config_.Size("key_width", 1, kMax));
    MNEMO_ASSIGN_OR_RETURN(sizes_.value_width, config_.Size("value_width", 1, kMax));
    MNEMO_ASSIGN_OR_RETURN(sizes_.hidden, config_.Size("hidden", 1, kernels::kCoordinateHiddenMax));
    MNEMO_ASSIGN_OR_RETURN(const auto discounts, config_.Numbers("discounts", 0, 1));
    if (discounts.empty() || discounts.size() > kernels::kCoordinateHeadsMax) {
      return InvalidArgument("wrong config: there are {} discounts, expected 1 to {}",
                             discounts.size(), kernels::kCoordinateHeadsMax);
    }
    sizes_.heads = discounts.size();
    MNEMO_ASSIGN_OR_RETURN(memory_features_,
                           config_.Size("memory_features", 1, kernels::kCoordinateHeadsMax * kMax));
    MNEMO_ASSIGN_OR_RETURN(feature_map_, config_.Text("feature_map"));
    MNEMO_ASSIGN_OR_RETURN(out_.decay_fast, config_.Number("decay_fast", 0, kBelowOne));
    MNEMO_ASSIGN_OR_RETURN(out_.decay_slow, config_.Number("decay_slow", 0, kBelowOne));
    MNEMO_ASSIGN_OR_RETURN(out_.decay_square, config_.Number("decay_square", 0, kBelowOne));
    return absl::OkStatus();
  }

  absl::StatusOr<float> Knob(const char* name) {
    MNEMO_ASSIGN_OR_RETURN(const auto value,
                           tensors_.Take(fmt::format("fixed.knobs.{}", name), {}));
    return value[0];
  }

  // A knob that would divide by 0, or worse, below `minimum`.
  absl::StatusOr<float> Knob(const char* name, float minimum) {
    MNEMO_ASSIGN_OR_RETURN(const float value, Knob(name));
    if (value >= minimum) return value;
    return InvalidArgument("wrong knob: {} is {}, expected at least {}", name, value, minimum);
  }

  absl::Status ReadKnobs() {
    constexpr float kLeast = 1e-6F;
    kernels::CoordinateKnobs& knobs = out_.model.knobs;
    MNEMO_ASSIGN_OR_RETURN(knobs.gate_cam, Knob("gate_cam"));
    MNEMO_ASSIGN_OR_RETURN(const float gate, Knob("gate_correction"));
    MNEMO_ASSIGN_OR_RETURN(const float correction, Knob("correction"));
    knobs.correction = gate * correction;
    MNEMO_ASSIGN_OR_RETURN(knobs.eta_rise, Knob("eta_rise"));
    MNEMO_ASSIGN_OR_RETURN(knobs.eta_smoothing, Knob("eta_smoothing", 0));
    MNEMO_ASSIGN_OR_RETURN(knobs.eta_low, Knob("eta_low"));
    if (!(knobs.eta_low <= -kLeast)) {
      return InvalidArgument("wrong knob: eta_low is {}, expected at most {}", knobs.eta_low,
                             -kLeast);
    }
    MNEMO_ASSIGN_OR_RETURN(knobs.eta_high, Knob("eta_high", kLeast));
    MNEMO_ASSIGN_OR_RETURN(knobs.eta_temper, Knob("eta_temper"));
    MNEMO_ASSIGN_OR_RETURN(knobs.epsilon, Knob("epsilon", 0));
    MNEMO_ASSIGN_OR_RETURN(out_.eta_vector, Knob("eta_vector"));
    MNEMO_ASSIGN_OR_RETURN(out_.eta_matrix, Knob("eta_matrix"));
    MNEMO_ASSIGN_OR_RETURN(out_.width_exponent, Knob("width_exponent"));
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<float>> Take(const std::string& name, size_t rows, size_t columns) {
    const std::array shape = {static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
    return tensors_.Take(name, shape);
  }

  absl::StatusOr<std::vector<float>> Take(const std::string& name, size_t count) {
    const std::array shape = {static_cast<int64_t>(count)};
    return tensors_.Take(name, shape);
  }

  void Append(std::span<const float> values) {
    out_.packed.insert(out_.packed.end(), values.begin(), values.end());
  }

  absl::Status AppendDense(const std::string& name, size_t inputs, size_t outputs) {
    MNEMO_ASSIGN_OR_RETURN(const auto w, Take(name + ".w", inputs, outputs));
    MNEMO_ASSIGN_OR_RETURN(const auto b, Take(name + ".b", outputs));
    Append(w);
    Append(b);
    return absl::OkStatus();
  }

  absl::Status ReadMemory() {
    MNEMO_RETURN_IF_ERROR(AppendDense("learned.heads", kernels::kCoordinateFeatureCount,
                                      kernels::CoordinateHeadWidth(sizes_)));
    const size_t heads = sizes_.heads;
    MNEMO_ASSIGN_OR_RETURN(const auto logits, Take("learned.discounts", heads));
    for (size_t head = 0; head < heads; ++head) {
      out_.model.discounts[head] =
          static_cast<float>(1 / (1 + std::exp(-static_cast<double>(logits[head]))));
    }
    const kernels::FeatureMapConfig map = {
        .kind = feature_map_,
        .inputs = sizes_.key_width,
        .features =
            kernels::NearestFeatureCount(feature_map_, sizes_.key_width, memory_features_ / heads),
        .epsilon = kFeatureEpsilon};
    if (map.features > kernels::kCoordinateWidthMax) {
      return InvalidArgument("wrong config: the map {} has {} features, the most is {}",
                             feature_map_, map.features, kernels::kCoordinateWidthMax);
    }
    MNEMO_ASSIGN_OR_RETURN(const size_t rows, kernels::ProjectionRows(map));
    const std::array shape = {static_cast<int64_t>(heads), static_cast<int64_t>(rows),
                              static_cast<int64_t>(map.inputs)};
    MNEMO_ASSIGN_OR_RETURN(const auto all, tensors_.Take("fixed.projection", shape));
    const size_t each = rows * map.inputs;
    for (size_t head = 0; head < heads; ++head) {
      MNEMO_ASSIGN_OR_RETURN(
          const kernels::FeatureMapWeights made,
          kernels::MakeFeatureMap(map, std::span(all).subspan(head * each, each)));
      sizes_.map = made.sizes;
      sizes_.map_bias = !made.bias.empty();
      for (size_t start = 0; start < made.weights.size(); start += rows) {
        Append(std::span(made.weights).subspan(start, rows));
        out_.packed.resize(out_.packed.size() + kernels::PaddedColumns(rows) - rows);
      }
      Append(made.bias);
    }
    return absl::OkStatus();
  }

  absl::Status ReadPerceptron() {
    const size_t hidden = sizes_.hidden;
    MNEMO_ASSIGN_OR_RETURN(const auto own,
                           Take("learned.hidden.w", kernels::CoordinateInputCount(sizes_), hidden));
    MNEMO_ASSIGN_OR_RETURN(const auto own_bias, Take("learned.hidden.b", hidden));
    MNEMO_ASSIGN_OR_RETURN(const auto tensor,
                           Take("learned.tensor.w", kernels::kConditionCount, hidden));
    MNEMO_ASSIGN_OR_RETURN(const auto tensor_bias, Take("learned.tensor.b", hidden));
    Append(own);
    out_.tensor_weights.assign(tensor.begin(), tensor.end());
    for (size_t k = 0; k < hidden; ++k) {
      out_.tensor_bias.push_back(static_cast<double>(own_bias[k]) +
                                 static_cast<double>(tensor_bias[k]));
    }
    return AppendDense("learned.out", hidden, kernels::kCoordinateDecisionCount);
  }

  const ModelConfig& config_;
  ModelTensors tensors_;
  CoordinateWeights out_;
  kernels::CoordinateSizes& sizes_ = out_.model.sizes;
  size_t memory_features_ = 0;
  std::string feature_map_;
};

}  // namespace

void CoordinateWeights::Tell(std::span<const float, kernels::kConditionCount> conditions,
                             float* told) const {
  const size_t hidden = model.sizes.hidden;
  for (size_t k = 0; k < hidden; ++k) {
    double sum = tensor_bias[k];
    for (size_t i = 0; i < conditions.size(); ++i) {
      sum += static_cast<double>(conditions[i]) * tensor_weights[i * hidden + k];
    }
    told[k] = static_cast<float>(sum);
  }
}

absl::StatusOr<CoordinateWeights> ReadCoordinateWeights(const Model& model) {
  return Reader(model).Read();
}

}  // namespace mnemosyne::optim
