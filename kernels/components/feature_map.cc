#include "kernels/components/feature_map.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::kernels {
namespace {

absl::StatusOr<FeatureMapShape> ShapeOf(std::string_view kind) {
  if (kind == "favor_plus" || kind == "favor_plus_plus") return FeatureMapShape::kExponential;
  if (kind == "hyperbolic") return FeatureMapShape::kHyperbolic;
  if (kind == "relu") return FeatureMapShape::kRelu;
  if (kind == "elu") return FeatureMapShape::kElu;
  if (kind == "dpfp") return FeatureMapShape::kDpfp;
  return InvalidArgument(
      "unknown feature map: {}, expected favor_plus, favor_plus_plus, hyperbolic, relu, elu or "
      "dpfp",
      kind);
}

absl::StatusOr<FeatureMapSizes> SizesOf(const FeatureMapConfig& config) {
  FeatureMapSizes sizes;
  MNEMO_ASSIGN_OR_RETURN(sizes.shape, ShapeOf(config.kind));
  sizes.inputs = config.inputs;
  sizes.features = config.features;
  const auto is_size = [&](size_t size) { return size >= 1 && size <= config.size_max; };
  const bool fits =
      is_size(sizes.inputs) && is_size(sizes.features) &&
      (sizes.shape != FeatureMapShape::kHyperbolic || sizes.features % 2 == 0) &&
      (sizes.shape != FeatureMapShape::kElu || sizes.features == sizes.inputs) &&
      (sizes.shape != FeatureMapShape::kDpfp || sizes.features % (2 * sizes.inputs) == 0);
  if (!fits) {
    return InvalidArgument("wrong size: {} features of {} inputs do not fit the map {}",
                           sizes.features, sizes.inputs, config.kind);
  }
  return sizes;
}

// The optimal rho in (0, 1] of FAVOR++, stable at s = 0.
double FavorPlusPlusRho(double s, double d) {
  const double root = std::sqrt((2 * s + d) * (2 * s + d) + 8 * d * s);
  return 2 * d / (root + 2 * s + d);
}

}  // namespace

size_t NearestFeatureCount(std::string_view kind, size_t inputs, size_t wanted) {
  if (kind == "elu") return inputs;
  size_t step = 1;
  if (kind == "hyperbolic") step = 2;
  if (kind == "dpfp") step = 2 * inputs;
  const double steps = std::nearbyint(static_cast<double>(wanted) / static_cast<double>(step));
  return step * static_cast<size_t>(std::max(1.0, steps));
}

absl::StatusOr<size_t> ProjectionRows(const FeatureMapConfig& config) {
  MNEMO_ASSIGN_OR_RETURN(const FeatureMapSizes sizes, SizesOf(config));
  return ProjectionCount(sizes);
}

absl::StatusOr<FeatureMapWeights> MakeFeatureMap(const FeatureMapConfig& config,
                                                 std::span<const float> projection) {
  FeatureMapWeights map;
  MNEMO_ASSIGN_OR_RETURN(map.sizes, SizesOf(config));
  const size_t rows = ProjectionCount(map.sizes), inputs = config.inputs;
  if (projection.size() != rows * inputs) {
    return InvalidArgument("wrong size: the projection has {} numbers, expected {}",
                           projection.size(), rows * inputs);
  }
  if (rows == 0) return map;

  double scale = 1 / std::sqrt(static_cast<double>(config.features)), factor = 1;
  if (config.kind == "favor_plus_plus") {
    // phi = D exp(A |w|^2 + B w . x - |x|^2 / 2) / sqrt(m)
    const auto size = static_cast<double>(inputs);
    const double a = (1 - 1 / FavorPlusPlusRho(config.square_sum, size)) / 8;
    factor = std::sqrt(1 - 4 * a);
    map.projection_factor = factor;
    map.bias_factor = a;
    scale *= std::pow(1 - 4 * a, size / 4);
    for (size_t row = 0; row < rows; ++row) {
      double square = 0;
      for (const float w : projection.subspan(row * inputs, inputs)) {
        square += static_cast<double>(w) * static_cast<double>(w);
      }
      map.bias.push_back(static_cast<float>(a * square));
    }
  }
  map.sizes.scale = static_cast<float>(scale);
  if (config.kind == "relu") map.sizes.epsilon = static_cast<float>(config.epsilon);
  for (size_t i = 0; i < inputs; ++i) {
    for (size_t row = 0; row < rows; ++row) {
      map.weights.push_back(
          static_cast<float>(factor * static_cast<double>(projection[row * inputs + i])));
    }
  }
  return map;
}

}  // namespace mnemosyne::kernels
