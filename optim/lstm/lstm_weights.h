// The weights of an LSTM optimizer, from a model's tensors into the order of the op.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/lstm_sizes.h"
#include "optim/model.h"

namespace mnemosyne::optim {

struct LstmWeights {
  kernels::LstmSizes sizes;
  float output_scale = 0;
  std::vector<float> packed;  // [LstmWeightCount(sizes)], as lstm_sizes.h has them.
};

// Reads the config and all tensors of a model of kind `lstm` or `rnnprop`. InvalidArgument names
// what does not fit.
absl::StatusOr<LstmWeights> ReadLstmWeights(const Model& model);

}  // namespace mnemosyne::optim
