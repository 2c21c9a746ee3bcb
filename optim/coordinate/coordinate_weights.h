// The coordinate-wise optimizer's sizes, knobs and weights, from a model's config and tensors into
// the order of the op.
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/coordinate_sizes.h"
#include "optim/model.h"

namespace mnemosyne::optim {

// Immutable after ReadCoordinateWeights.
struct CoordinateWeights {
  kernels::CoordinateModel model;
  std::vector<float> packed;  // [CoordinateWeightCount(sizes)], as coordinate_sizes.h has them.

  // The affine map of what is known of a tensor, with the bias of the hidden layer in its own.
  std::vector<double> tensor_weights;  // [kConditionCount, hidden]
  std::vector<double> tensor_bias;     // [hidden]

  // Decays of r1, r2 and s.
  double decay_fast = 0;
  double decay_slow = 0;
  double decay_square = 0;

  // The prior step size; metatrain's config.py describes it.
  double eta_vector = 0;
  double eta_matrix = 0;
  double width_exponent = 0;

  // What the hidden layer is told of a tensor: writes [hidden] to `told`.
  void Tell(std::span<const float, kernels::kConditionCount> conditions, float* told) const;
};

// Reads the config and all tensors of a model of kind `mnemosyne-coordinate`. InvalidArgument names
// what does not fit.
absl::StatusOr<CoordinateWeights> ReadCoordinateWeights(const Model& model);

}  // namespace mnemosyne::optim
