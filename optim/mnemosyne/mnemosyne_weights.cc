#include "optim/mnemosyne/mnemosyne_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/components/feature_map.h"
#include "kernels/mnemosyne_fold.h"

namespace mnemosyne::optim {
namespace {

using kernels::DenseWeights;
using kernels::MapWeights;
using kernels::MnemosyneSizes;

// Of the ReLU map, as metatrain's dense.py has it.
constexpr double kFeatureEpsilon = 1e-2;

// The family of masks over positions, as metatrain's spatial.py and flt.py have it.
constexpr size_t kDimensions = 2;
constexpr int64_t kModes = 4;
constexpr double kFrequencyScale = 1;
constexpr double kNormMax = 0.5;

// Calls visit(pointer) for every pointer to weights.
template <typename Visit>
void ForEachPointer(kernels::MnemosyneWeights& weights, const Visit& visit) {
  for (DenseWeights* dense :
       {&weights.embed, &weights.cell_heads, &weights.merge, &weights.expand, &weights.contract,
        &weights.pool, &weights.memory_heads, &weights.memory_strengths, &weights.context_heads,
        &weights.decoder_hidden, &weights.decision, &weights.gain, &weights.folds.cell_values,
        &weights.folds.cell_gain, &weights.folds.pool}) {
    visit(dense->w);
    visit(dense->b);
  }
  visit(weights.recurrent);
  for (MapWeights* map : {&weights.cell_map, &weights.context_map}) {
    visit(map->w);
    visit(map->b);
  }
  for (MapWeights& map : weights.memory_maps) {
    visit(map.w);
    visit(map.b);
  }
}

// Reads one model. While it reads, pointers to weights are positions in `packed`, plus 1.
class Reader {
 public:
  explicit Reader(const Model& model) : config_(model.config()), tensors_(model) {}

  absl::StatusOr<MnemosyneWeights> Read() {
    MNEMO_RETURN_IF_ERROR(ReadConfig());
    MNEMO_RETURN_IF_ERROR(ReadKnobs());
    MNEMO_RETURN_IF_ERROR(ReadSpatial());
    MNEMO_RETURN_IF_ERROR(ReadTemporal());
    MNEMO_RETURN_IF_ERROR(ReadContextAndDecoder());
    MNEMO_RETURN_IF_ERROR(tensors_.Finish());
    const size_t read = out_.packed.size();
    out_.packed.resize(read + kernels::FoldedCount(sizes()));
    const float* const start = out_.packed.data();
    ForEachPointer(out_.model.weights, [&](const float*& pointer) {
      const auto position = reinterpret_cast<uintptr_t>(pointer);
      pointer = position == 0 ? nullptr : start + (position - 1);
    });
    kernels::FoldMaps(out_.model, out_.packed.data() + read);
    return std::move(out_);
  }

 private:
  MnemosyneSizes& sizes() { return out_.model.sizes; }
  kernels::MnemosyneWeights& weights() { return out_.model.weights; }

  absl::Status ReadConfig() {
    constexpr size_t kMax = kernels::kMnemosyneWidthMax;
    MNEMO_ASSIGN_OR_RETURN(sizes().cell_size,
                           config_.Size("cell_size", 1, kernels::kMnemosyneCellMax));
    MNEMO_ASSIGN_OR_RETURN(const size_t chunk_size, config_.Size("chunk_size", sizes().cell_size,
                                                                 kernels::kMnemosyneChunkMax));
    if (chunk_size % sizes().cell_size != 0) {
      return InvalidArgument("wrong config: chunk_size is {}, no multiple of cell_size, {}",
                             chunk_size, sizes().cell_size);
    }
    sizes().chunk_cells = chunk_size / sizes().cell_size;
    MNEMO_ASSIGN_OR_RETURN(sizes().cell_width, config_.Size("cell_width", 1, kMax));
    MNEMO_ASSIGN_OR_RETURN(sizes().key_width, config_.Size("key_width", 1, kMax));
    MNEMO_ASSIGN_OR_RETURN(frequencies_, config_.Size("frequencies", 1, kMax / 4));
    sizes().positional = 2 * frequencies_;
    MNEMO_ASSIGN_OR_RETURN(cell_features_, config_.Size("cell_features", 1, kMax));
    MNEMO_ASSIGN_OR_RETURN(sizes().cell_hidden, config_.Size("cell_hidden", 1, kMax));
    MNEMO_ASSIGN_OR_RETURN(sizes().token_width, config_.Size("token_width", 1, 2 * kMax));
    MNEMO_ASSIGN_OR_RETURN(memory_features_, config_.Size("memory_features", 1, kMax));
    MNEMO_ASSIGN_OR_RETURN(sizes().memory_width, config_.Size("memory_width", 1, kMax));
    MNEMO_ASSIGN_OR_RETURN(const auto discounts, config_.Numbers("discounts", 0, 1));
    if (discounts.empty() || discounts.size() > kernels::kMnemosyneHeadsMax) {
      return InvalidArgument("wrong config: there are {} discounts, expected 1 to {}",
                             discounts.size(), kernels::kMnemosyneHeadsMax);
    }
    sizes().memory_heads = discounts.size();
    MNEMO_ASSIGN_OR_RETURN(sizes().hidden, config_.Size("hidden", 1, 2 * kMax));
    MNEMO_ASSIGN_OR_RETURN(feature_map_, config_.Text("feature_map"));
    MNEMO_ASSIGN_OR_RETURN(out_.decay_fast, config_.Number("decay_fast", 0, kBelowOne));
    MNEMO_ASSIGN_OR_RETURN(out_.decay_square, config_.Number("decay_square", 0, kBelowOne));
    MNEMO_ASSIGN_OR_RETURN(const std::string rule, config_.Text("write_rule"));
    if (rule == "delta") {
      sizes().write_rule = kernels::MnemosyneWriteRule::kDelta;
    } else if (rule == "recurrent_delta") {
      sizes().write_rule = kernels::MnemosyneWriteRule::kRecurrentDelta;
    } else if (rule != "additive") {
      return InvalidArgument("unknown write_rule {}, expected additive, delta or recurrent_delta",
                             rule);
    }
    MNEMO_ASSIGN_OR_RETURN(const bool same_step, config_.Boolean("same_step_context"));
    if (same_step) return InvalidArgument("same_step_context is not served, expected false");
    return absl::OkStatus();
  }

  absl::Status ReadKnobs() {
    kernels::MnemosyneKnobs& knobs = out_.model.knobs;
    HostKnobs& host = out_.knobs;
    const std::pair<const char*, float*> all[] = {
        {"gate_level1", &knobs.gate_level1},
        {"gate_flt", &knobs.gate_flt},
        {"gate_level2", &knobs.gate_level2},
        {"gate_across", &knobs.gate_across},
        {"gate_cam", &knobs.gate_cam},
        {"gate_cell_gain", &knobs.gate_cell_gain},
        {"gate_mixture", &knobs.gate_mixture},
        {"gate_growth", &knobs.gate_growth},
        {"gate_decay", &knobs.gate_decay},
        {"gate_guard", &host.gate_guard},
        {"eta_vector", &host.eta_vector},
        {"eta_matrix", &host.eta_matrix},
        {"width_exponent", &host.width_exponent},
        {"warmup", &host.warmup},
        {"sharp_weight", &knobs.sharp_weight},
        {"fast_weight", &knobs.fast_weight},
        {"slow_weight", &knobs.slow_weight},
        {"fast_power", &host.fast_power},
        {"growth", &knobs.growth},
        {"decay", &knobs.decay},
        {"write_limit", &knobs.write_limit},
        {"age_limit", &host.age_limit},
        {"eta_rise", &knobs.eta_rise},
        {"smoothing", &knobs.smoothing},
        {"eta_low", &knobs.eta_low},
        {"eta_high", &knobs.eta_high},
        {"guard_cap", &host.guard_cap},
        {"guard_margin", &host.guard_margin},
        {"guard_release", &host.guard_release},
        {"guard_recovery", &host.guard_recovery},
        {"guard_share", &knobs.guard_share},
        {"epsilon", &knobs.epsilon},
    };
    for (const auto& [name, knob] : all) {
      MNEMO_ASSIGN_OR_RETURN(const auto value,
                             tensors_.Take(fmt::format("fixed.knobs.{}", name), {}));
      *knob = value[0];
    }
    // What would divide by 0 or let steps grow without bound.
    const std::tuple<const char*, float, float> least[] = {
        {"age_limit", host.age_limit, 1.0F},
        {"warmup", host.warmup, 0.0F},
        {"growth", knobs.growth, 0.0F},
        {"eta_low, negated", -knobs.eta_low, 1e-6F},
        {"eta_high", knobs.eta_high, 1e-6F},
        {"write_limit", knobs.write_limit, 1e-6F},
        {"epsilon", knobs.epsilon, 0.0F},
        {"guard_cap", host.guard_cap, 0.0F},
        {"guard_margin", host.guard_margin, 0.0F},
    };
    for (const auto& [name, value, minimum] : least) {
      if (value >= minimum) continue;
      return InvalidArgument("wrong knob: {} is {}, expected at least {}", name, value, minimum);
    }
    return absl::OkStatus();
  }

  // Appends rows of `columns` numbers, padded.
  const float* Append(std::span<const float> values, size_t columns) {
    const size_t position = out_.packed.size();
    for (size_t start = 0; start < values.size(); start += columns) {
      const auto row = values.subspan(start, columns);
      out_.packed.insert(out_.packed.end(), row.begin(), row.end());
      out_.packed.resize(out_.packed.size() + kernels::PaddedColumns(columns) - columns);
    }
    return reinterpret_cast<const float*>(uintptr_t{position + 1});
  }

  absl::Status ReadDense(const std::string& name, size_t inputs, size_t outputs,
                         DenseWeights& dense) {
    const std::array shape = {static_cast<int64_t>(inputs), static_cast<int64_t>(outputs)};
    MNEMO_ASSIGN_OR_RETURN(const auto w, tensors_.Take(name + ".w", shape));
    MNEMO_ASSIGN_OR_RETURN(const auto b, tensors_.Take(name + ".b", std::span(shape).subspan(1)));
    dense.w = Append(w, outputs);
    dense.b = Append(b, outputs);
    return absl::OkStatus();
  }

  // A map of `inputs` numbers to about `wanted` features, and the shape of its projection.
  absl::StatusOr<std::array<int64_t, 2>> MakeSizes(size_t inputs, size_t wanted,
                                                   kernels::FeatureMapSizes& map) {
    map.inputs = inputs;
    map.features = kernels::NearestFeatureCount(feature_map_, inputs, wanted);
    if (map.features > kernels::kMnemosyneWidthMax) {
      return InvalidArgument("wrong config: the map {} has {} features, the most is {}",
                             feature_map_, map.features, kernels::kMnemosyneWidthMax);
    }
    MNEMO_ASSIGN_OR_RETURN(const size_t rows, kernels::ProjectionRows(MapConfig(map)));
    return std::array<int64_t, 2>{static_cast<int64_t>(rows), static_cast<int64_t>(inputs)};
  }

  kernels::FeatureMapConfig MapConfig(const kernels::FeatureMapSizes& map) const {
    return {.kind = feature_map_,
            .inputs = map.inputs,
            .features = map.features,
            .epsilon = kFeatureEpsilon};
  }

  absl::Status MakeMap(std::span<const float> projection, kernels::FeatureMapSizes& sizes,
                       MapWeights& map) {
    MNEMO_ASSIGN_OR_RETURN(const kernels::FeatureMapWeights made,
                           kernels::MakeFeatureMap(MapConfig(sizes), projection));
    sizes = made.sizes;
    if (!made.weights.empty()) map.w = Append(made.weights, ProjectionCount(sizes));
    if (!made.bias.empty()) map.b = Append(made.bias, made.bias.size());
    return absl::OkStatus();
  }

  absl::Status ReadSpatial() {
    const size_t width = sizes().cell_width, key = sizes().key_width;
    const size_t hidden = sizes().cell_hidden;
    MNEMO_RETURN_IF_ERROR(
        ReadDense("learned.spatial.embed", kernels::kCellFeatureCount, width, weights().embed));
    MNEMO_RETURN_IF_ERROR(
        ReadDense("learned.spatial.heads", width, 2 * key + width, weights().cell_heads));
    MNEMO_RETURN_IF_ERROR(ReadDense("learned.spatial.merge", width, width, weights().merge));
    MNEMO_RETURN_IF_ERROR(ReadDense("learned.spatial.expand", width, hidden, weights().expand));
    MNEMO_RETURN_IF_ERROR(ReadDense("learned.spatial.contract", hidden, width, weights().contract));
    MNEMO_RETURN_IF_ERROR(ReadDense("learned.spatial.pool", width + kernels::kChunkFeatureCount,
                                    sizes().token_width, weights().pool));
    MNEMO_ASSIGN_OR_RETURN(const auto shape,
                           MakeSizes(key + sizes().positional, cell_features_, sizes().cell_map));
    MNEMO_ASSIGN_OR_RETURN(const auto rows, tensors_.Take("fixed.spatial.projection", shape));
    MNEMO_RETURN_IF_ERROR(MakeMap(rows, sizes().cell_map, weights().cell_map));
    return ReadSpectrum();
  }

  absl::Status ReadSpectrum() {
    const std::string name = "learned.spatial.spectrum.";
    const std::array<int64_t, 1> modes = {kModes};
    const std::array<int64_t, 2> grid = {kModes, kDimensions};
    const std::array<int64_t, 2> base_shape = {static_cast<int64_t>(frequencies_), kDimensions};
    MNEMO_ASSIGN_OR_RETURN(const auto real, tensors_.Take(name + "weights", modes));
    MNEMO_ASSIGN_OR_RETURN(const auto odd, tensors_.Take(name + "odd_weights", modes));
    MNEMO_ASSIGN_OR_RETURN(const auto centers, tensors_.Take(name + "centers", grid));
    MNEMO_ASSIGN_OR_RETURN(const auto variances, tensors_.Take(name + "log_variances", modes));
    MNEMO_ASSIGN_OR_RETURN(const auto base, tensors_.Take("fixed.spatial.frequencies", base_shape));
    out_.positions = kernels::GaussianMixtureSpectrum({real, odd, centers, variances}, base,
                                                      kDimensions, kFrequencyScale, kNormMax);
    return absl::OkStatus();
  }

  absl::Status ReadTemporal() {
    const size_t heads = sizes().memory_heads, key = sizes().key_width;
    MNEMO_RETURN_IF_ERROR(ReadDense("learned.temporal.heads", sizes().token_width,
                                    2 * key + sizes().memory_width, weights().memory_heads));
    if (sizes().write_rule != kernels::MnemosyneWriteRule::kAdditive) {
      MNEMO_RETURN_IF_ERROR(ReadDense("learned.temporal.beta", sizes().token_width, heads,
                                      weights().memory_strengths));
    }
    if (sizes().write_rule == kernels::MnemosyneWriteRule::kRecurrentDelta) {
      const size_t outputs = kernels::RecurrentOutputCount(sizes());
      const std::array recurrent_shape = {static_cast<int64_t>(heads * sizes().memory_width),
                                          static_cast<int64_t>(outputs)};
      MNEMO_ASSIGN_OR_RETURN(const auto recurrent,
                             tensors_.Take("learned.temporal.recurrent", recurrent_shape));
      weights().recurrent = Append(recurrent, outputs);
    }
    const std::array<int64_t, 1> count = {static_cast<int64_t>(heads)};
    MNEMO_ASSIGN_OR_RETURN(const auto logits, tensors_.Take("learned.temporal.discounts", count));
    for (size_t head = 0; head < heads; ++head) {
      weights().discounts[head] =
          static_cast<float>(1 / (1 + std::exp(-static_cast<double>(logits[head]))));
    }
    MNEMO_ASSIGN_OR_RETURN(const auto shape,
                           MakeSizes(key, memory_features_ / heads, sizes().memory_map));
    const std::array<int64_t, 3> stacked = {count[0], shape[0], shape[1]};
    MNEMO_ASSIGN_OR_RETURN(const auto rows, tensors_.Take("fixed.temporal.projection", stacked));
    const size_t each = rows.size() / heads;
    for (size_t head = 0; head < heads; ++head) {
      MNEMO_RETURN_IF_ERROR(MakeMap(std::span(rows).subspan(head * each, each), sizes().memory_map,
                                    weights().memory_maps[head]));
    }
    return absl::OkStatus();
  }

  absl::Status ReadContextAndDecoder() {
    const size_t head = 2 * sizes().key_width + sizes().memory_width;
    MNEMO_RETURN_IF_ERROR(
        ReadDense("learned.context.heads", sizes().token_width, 2 * head, weights().context_heads));
    MNEMO_ASSIGN_OR_RETURN(const auto shape,
                           MakeSizes(sizes().key_width, cell_features_, sizes().context_map));
    MNEMO_ASSIGN_OR_RETURN(const auto rows, tensors_.Take("fixed.context.projection", shape));
    MNEMO_RETURN_IF_ERROR(MakeMap(rows, sizes().context_map, weights().context_map));
    const size_t hidden = sizes().hidden;
    MNEMO_RETURN_IF_ERROR(ReadDense("learned.decoder.hidden", DecoderInputCount(sizes()), hidden,
                                    weights().decoder_hidden));
    MNEMO_RETURN_IF_ERROR(
        ReadDense("learned.decoder.out", hidden, kernels::kDecisionCount, weights().decision));
    return ReadDense("learned.decoder.gain", sizes().cell_width, 1, weights().gain);
  }

  static constexpr double kBelowOne = 1 - 1e-9;

  const ModelConfig& config_;
  ModelTensors tensors_;
  MnemosyneWeights out_;
  size_t frequencies_ = 0, cell_features_ = 0, memory_features_ = 0;
  std::string feature_map_;
};

}  // namespace

kernels::MnemosyneModel MnemosyneWeights::At(const float* data) const {
  kernels::MnemosyneModel moved = model;
  ForEachPointer(moved.weights, [&](const float*& pointer) {
    if (pointer != nullptr) pointer = data + (pointer - packed.data());
  });
  return moved;
}

absl::StatusOr<MnemosyneWeights> ReadMnemosyneWeights(const Model& model) {
  return Reader(model).Read();
}

}  // namespace mnemosyne::optim
