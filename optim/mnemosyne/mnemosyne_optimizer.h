// The flagship: an update rule of two memories of each coordinate, steered by attention.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "optim/model.h"
#include "optim/optimizer_factory.h"

namespace mnemosyne::optim {

// The optimizer of a model of kind `mnemosyne`, as metatrain's optimizers/mnemosyne/ specifies it;
// kernels/mnemosyne_step.h has the order of a step.
//
// Its learning rate is a factor on the update and on the learned decay of weights, by default 1: as
// it was meta-trained. It uses what the client tells of the loss, of the parameters' rms (at a
// parameter's first step), of the horizon, and of fan-in and fan-out.
//
// InvalidArgument if the tensors do not fit the config. Its Create answers Unimplemented on a
// device that lacks the flagship's ops.
absl::StatusOr<OptimizerFactoryPtr> MakeMnemosyne(std::shared_ptr<const Model> model);

}  // namespace mnemosyne::optim
