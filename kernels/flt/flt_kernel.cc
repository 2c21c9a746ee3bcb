#include "kernels/flt/flt_kernel.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numbers>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/components/feature_map.h"
#include "kernels/components/projection.h"

namespace mnemosyne::kernels {
namespace {

// Keeps roots of magnitudes away from 0, as in components/spectrum.cc.
constexpr double kMagnitudeSmoothing = 1e-12;

size_t Padded(size_t count) { return (count + 15) / 16 * 16; }

absl::Status CheckRange(std::string_view what, size_t size, size_t least, size_t most) {
  if (size >= least && size <= most) return absl::OkStatus();
  return InvalidArgument("wrong size: {} is {}, expected {} to {}", what, size, least, most);
}

absl::Status CheckNumbers(std::string_view what, std::span<const float> numbers, size_t count) {
  if (numbers.size() != count) {
    return InvalidArgument("wrong size: {} has {} numbers, expected {}", what, numbers.size(),
                           count);
  }
  const auto bad = std::ranges::find_if(numbers, [](float x) { return !std::isfinite(x); });
  if (bad == numbers.end()) return absl::OkStatus();
  return InvalidArgument("not finite: number {} of {} is NaN or infinite", bad - numbers.begin(),
                         what);
}

FeatureMapConfig MapConfig(const FltConfig& config, size_t inputs) {
  return {.kind = config.feature_map,
          .inputs = inputs,
          .features = config.features,
          .square_sum = config.square_sum,
          .epsilon = config.epsilon,
          .size_max = kFltInputMax};
}

absl::Status CheckConfig(const FltConfig& config, size_t waves) {
  MNEMO_RETURN_IF_ERROR(CheckRange("heads", config.heads, 1, 4096));
  MNEMO_RETURN_IF_ERROR(CheckRange("head dimension", config.dim, 1, kFltDimMax));
  MNEMO_RETURN_IF_ERROR(CheckRange("value dimension", config.value_dim, 1, kFltDimMax));
  MNEMO_RETURN_IF_ERROR(CheckRange("features", config.features, 1, kFltFeatureMax));
  MNEMO_RETURN_IF_ERROR(CheckRange("waves", waves, 0, kFltWaveMax));
  if (!(config.scale >= 0) || !std::isfinite(config.scale)) {
    return InvalidArgument("wrong scale: {}, expected a positive number, or 0 for 1 / sqrt(dim)",
                           config.scale);
  }
  if (!(config.square_sum >= 0) || !std::isfinite(config.square_sum)) {
    return InvalidArgument("wrong square_sum: {}, expected a number of at least 0",
                           config.square_sum);
  }
  return absl::OkStatus();
}

size_t InputCount(const FltConfig& config, size_t waves) {
  return config.dim + (config.form == MaskForm::kAdditive ? 2 * waves : 0);
}

absl::Status CheckWaves(const FltConfig& config, const FltWaves& waves) {
  if (waves.waves == 0) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(
      CheckRange("coordinates of a position", waves.positions, 1, kFltPositionMax));
  const size_t count = config.heads * waves.waves;
  MNEMO_RETURN_IF_ERROR(CheckNumbers("frequencies", waves.frequencies, count * waves.positions));
  MNEMO_RETURN_IF_ERROR(CheckNumbers("real wave weights", waves.real, count));
  MNEMO_RETURN_IF_ERROR(CheckNumbers("imaginary wave weights", waves.imaginary, count));
  return CheckNumbers("mask constants", waves.constant, config.heads);
}

// The waves of each head as the loops want them.
void PrepareWaves(FltKernel& kernel) {
  const FltWaves& waves = kernel.waves;
  const size_t heads = kernel.sizes.heads, count = waves.waves, padded = Padded(count);
  kernel.frequencies.assign(heads * waves.positions * padded, 0);
  for (auto* array : {&kernel.query_a, &kernel.query_b, &kernel.key_a, &kernel.key_b}) {
    array->assign(heads * padded, 0);
  }
  for (size_t h = 0; h < heads; ++h) {
    for (size_t m = 0; m < count; ++m) {
      for (size_t axis = 0; axis < waves.positions; ++axis) {
        kernel.frequencies[(h * waves.positions + axis) * padded + m] =
            waves.frequencies[(h * count + m) * waves.positions + axis];
      }
      const size_t at = h * padded + m;
      const float real = waves.real[h * count + m], imaginary = waves.imaginary[h * count + m];
      if (kernel.sizes.form == MaskForm::kMultiplicative) {
        kernel.query_a[at] = real;
        kernel.query_b[at] = -imaginary;
        kernel.key_a[at] = 1;
        continue;
      }
      const double a = real, b = imaginary;
      const double root = std::sqrt(std::sqrt(a * a + b * b + kMagnitudeSmoothing));
      kernel.query_a[at] = static_cast<float>(root);
      kernel.key_a[at] = static_cast<float>(a / root);
      kernel.key_b[at] = static_cast<float>(b / root);
    }
  }
}

// Decides about masks that may be negative.
absl::Status PrepareFloors(FltKernel& kernel) {
  const FltWaves& waves = kernel.waves;
  const size_t heads = kernel.sizes.heads;
  kernel.floors.assign(heads, 0);
  kernel.constants.assign(heads, 1);
  if (kernel.sizes.form == MaskForm::kAdditive || waves.waves == 0) return absl::OkStatus();
  kernel.constants = waves.constant;
  for (size_t h = 0; h < heads; ++h) {
    double norm = 0;
    for (size_t m = 0; m < waves.waves; ++m) {
      norm += std::hypot(static_cast<double>(waves.real[h * waves.waves + m]),
                         static_cast<double>(waves.imaginary[h * waves.waves + m]));
    }
    const double constant = waves.constant[h];
    if (waves.never_negative || constant >= norm) continue;
    if (!kernel.config.clamp_negative_masks) {
      return InvalidArgument(
          "mask may be negative: head {} has the constant {} below the sum {} of its wave weights; "
          "raise the constant, square the mask, use the additive form, or clamp its denominators",
          h, constant, norm);
    }
    kernel.floors[h] =
        std::max(static_cast<float>(kFltClampShare * (std::abs(constant) + norm)), 1e-30F);
  }
  return absl::OkStatus();
}

absl::Status PrepareMap(std::span<const float> projection, FltKernel& kernel) {
  FltSizes& sizes = kernel.sizes;
  const size_t inputs = FltInputCount(sizes);
  const FeatureMapConfig config = MapConfig(kernel.config, inputs);
  MNEMO_ASSIGN_OR_RETURN(const size_t rows, ProjectionRows(config));
  const size_t each = rows * inputs;
  const bool per_head = projection.size() == sizes.heads * each && sizes.heads > 1;
  kernel.projection_sets = each == 0 ? 0 : (per_head ? sizes.heads : 1);
  MNEMO_RETURN_IF_ERROR(CheckNumbers("projection", projection, kernel.projection_sets * each));
  kernel.projection.assign(projection.begin(), projection.end());
  const size_t columns = Padded(rows), width = Padded(inputs);
  for (size_t set = 0; set < std::max<size_t>(kernel.projection_sets, 1); ++set) {
    const auto part = projection.subspan(set * each, each);
    MNEMO_ASSIGN_OR_RETURN(const FeatureMapWeights map, MakeFeatureMap(config, part));
    sizes.map = map.sizes;
    kernel.projection_factor = map.projection_factor;
    kernel.bias_factor = map.bias_factor;
    for (size_t i = 0; i < inputs && rows > 0; ++i) {
      const auto row = std::span(map.weights).subspan(i * rows, rows);
      kernel.weights.insert(kernel.weights.end(), row.begin(), row.end());
      kernel.weights.resize(kernel.weights.size() + columns - rows, 0);
    }
    for (size_t row = 0; row < rows; ++row) {
      for (size_t i = 0; i < width; ++i) {
        kernel.transposed_weights.push_back(i < inputs ? map.weights[i * rows + row] : 0);
      }
    }
    if (map.bias.empty()) continue;
    kernel.bias.insert(kernel.bias.end(), map.bias.begin(), map.bias.end());
    kernel.bias.resize(kernel.bias.size() + columns - rows, 0);
  }
  return absl::OkStatus();
}

// Standard normal numbers from a counter, the same on every machine.
class Normals {
 public:
  explicit Normals(uint64_t seed) : state_(seed) {}

  double Next() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const double radius = std::sqrt(-2 * std::log(Uniform()));
    const double angle = 2 * std::numbers::pi * Uniform();
    spare_ = radius * std::sin(angle);
    has_spare_ = true;
    return radius * std::cos(angle);
  }

 private:
  // SplitMix64, in (0, 1].
  double Uniform() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    z ^= z >> 31U;
    return (static_cast<double>(z >> 11U) + 1) * 0x1p-53;
  }

  uint64_t state_;
  double spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace

size_t FltKernelBytes(const FltKernel& kernel) {
  size_t numbers = 0;
  for (const auto* array :
       {&kernel.waves.frequencies, &kernel.waves.real, &kernel.waves.imaginary,
        &kernel.waves.constant, &kernel.weights, &kernel.transposed_weights, &kernel.bias,
        &kernel.projection, &kernel.frequencies, &kernel.query_a, &kernel.query_b, &kernel.key_a,
        &kernel.key_b, &kernel.constants, &kernel.floors}) {
    numbers += array->size();
  }
  return numbers * sizeof(float);
}

absl::StatusOr<FltProjectionShape> FltProjectionOf(const FltConfig& config, size_t waves) {
  MNEMO_RETURN_IF_ERROR(CheckConfig(config, waves));
  const size_t inputs = InputCount(config, waves);
  MNEMO_ASSIGN_OR_RETURN(const size_t rows, ProjectionRows(MapConfig(config, inputs)));
  return FltProjectionShape{rows, inputs};
}

absl::StatusOr<FltKernel> MakeFltKernel(const FltConfig& config, FltWaves waves,
                                        std::span<const float> projection) {
  MNEMO_RETURN_IF_ERROR(CheckConfig(config, waves.waves));
  MNEMO_RETURN_IF_ERROR(CheckWaves(config, waves));
  static std::atomic<uint64_t> made = 0;
  FltKernel kernel;
  kernel.id = ++made;
  kernel.config = config;
  kernel.waves = std::move(waves);
  kernel.sizes = {.heads = config.heads,
                  .dim = config.dim,
                  .value_dim = config.value_dim,
                  .positions = kernel.waves.waves == 0 ? 0 : kernel.waves.positions,
                  .waves = kernel.waves.waves,
                  .form = config.form,
                  .map = {}};
  const double scale =
      config.scale == 0 ? 1 / std::sqrt(static_cast<double>(config.dim)) : config.scale;
  kernel.root_scale = static_cast<float>(std::sqrt(scale));
  MNEMO_RETURN_IF_ERROR(PrepareMap(projection, kernel));
  PrepareWaves(kernel);
  MNEMO_RETURN_IF_ERROR(PrepareFloors(kernel));
  return kernel;
}

std::vector<float> DrawProjection(size_t rows, size_t inputs, RowNorms norms, uint64_t seed) {
  Normals normals(seed);
  std::vector<float> projection;
  projection.reserve(rows * inputs);
  while (projection.size() < rows * inputs) {
    std::vector<float> block(inputs * inputs);
    for (float& number : block) number = static_cast<float>(normals.Next());
    const std::vector<double> rotation = OrthogonalFactor(block, inputs);
    for (size_t row = 0; row < inputs && projection.size() < rows * inputs; ++row) {
      double square = static_cast<double>(inputs);
      if (norms == RowNorms::kChi) {
        square = 0;
        for (size_t i = 0; i < inputs; ++i) square += std::pow(normals.Next(), 2);
      }
      for (size_t i = 0; i < inputs; ++i) {
        projection.push_back(static_cast<float>(std::sqrt(square) * rotation[row * inputs + i]));
      }
    }
  }
  return projection;
}

}  // namespace mnemosyne::kernels
