// Feature maps by name: what the op needs, made of a saved projection.
//
// metatrain's components/feature_maps.py is the specification. All maps but `relu`, `elu` and
// `dpfp` are random features of the kernel exp(q . k); no map subtracts a stabilizer, so the caller
// bounds the norms of q and k.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/row_sizes.h"

namespace mnemosyne::kernels {

// `favor_plus`, `favor_plus_plus`, `hyperbolic`, `relu`, `elu` or `dpfp`.
struct FeatureMapConfig {
  std::string_view kind;
  size_t inputs = 0;                   // d
  size_t features = 0;                 // M
  double square_sum = 2;               // s = E|q + k|^2, which favor_plus_plus is tuned for.
  double epsilon = 1e-3;               // Of relu.
  size_t size_max = kFeatureCountMax;  // Of inputs and features: what the op at hand can take.
};

// Arguments of the op that do not change.
struct FeatureMapWeights {
  FeatureMapSizes sizes;
  std::vector<float> weights;    // [d, ProjectionCount(sizes)]
  std::vector<float> bias;       // [M] for favor_plus_plus, else empty.
  double projection_factor = 1;  // weights = projection_factor projection^T
  double bias_factor = 0;        // bias_m = bias_factor |row m of the projection|^2
};

// The number of features nearest to the one wanted that a map of `inputs` numbers can have.
size_t NearestFeatureCount(std::string_view kind, size_t inputs, size_t wanted);

// Rows of the projection that the map needs; 0 if it needs none. InvalidArgument for an unknown
// kind or sizes that do not fit it.
absl::StatusOr<size_t> ProjectionRows(const FeatureMapConfig& config);

// Makes the arguments. `projection` is [ProjectionRows(config), d]. InvalidArgument as above, or
// for a projection of another size.
absl::StatusOr<FeatureMapWeights> MakeFeatureMap(const FeatureMapConfig& config,
                                                 std::span<const float> projection);

}  // namespace mnemosyne::kernels
