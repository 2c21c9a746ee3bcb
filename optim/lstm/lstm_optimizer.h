// The coordinate-wise LSTM optimizers: every element has an LSTM of its own, all with the same
// weights.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "optim/model.h"
#include "optim/optimizer_factory.h"

namespace mnemosyne::optim {

// The optimizer of a model of kind `lstm` (Andrychowicz et al., "Learning to learn by gradient
// descent by gradient descent", NeurIPS 2016, arXiv:1606.04474) or `rnnprop` (Lv et al., "Learning
// Gradient Descent: Better Generalization and Longer Horizons", ICML 2017, arXiv:1703.03633), as
// metatrain's optimizers/lstm.py specifies them. kernels/lstm_sizes.h has the equations.
//
// The update is the LSTM's, its scale the learning rate, by default 1: as it was meta-trained. The
// update is read out of the hidden values, so that the state after a step tells it again.
//
// Config: `layers` (1 to 4), `hidden` (1 to 64), `output_scale`. Tensors, with X inputs of a layer:
// `learned.layer<l>.w` [X + hidden, 4 hidden] and `.b` [4 hidden], with the gates enter, keep,
// leave, value one behind the other; `learned.out.w` [hidden, 1] and `.b` [1]; for rnnprop
// `learned.in.w` [2, hidden] and `.b` [hidden].
//
// InvalidArgument if the tensors do not fit the config.
absl::StatusOr<OptimizerFactoryPtr> MakeLstm(std::shared_ptr<const Model> model);

}  // namespace mnemosyne::optim
