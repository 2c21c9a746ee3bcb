// The coordinate-wise form of the flagship: every element has a memory of its own.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "optim/model.h"
#include "optim/optimizer_factory.h"

namespace mnemosyne::optim {

// The optimizer of a model of kind `mnemosyne-coordinate` (Jain et al., "Mnemosyne: Learning to
// Train Transformers with Transformers", NeurIPS 2023, arXiv:2302.01128), as metatrain's
// optimizers/coordinate/ specifies it; kernels/coordinate_sizes.h has the equations. It keeps some
// 45 numbers for each element: it is meant for nets of up to about 10^5 parameters.
//
// Its learning rate is a factor on the update, by default 1: as it was meta-trained. It uses what
// the client tells of the loss, of the parameters' rms (at a parameter's first step), of the
// horizon, and of fan-in and fan-out. It has no guard.
//
// InvalidArgument if the tensors do not fit the config. Its Create answers Unimplemented on a
// device that lacks the op.
absl::StatusOr<OptimizerFactoryPtr> MakeCoordinateMnemosyne(std::shared_ptr<const Model> model);

}  // namespace mnemosyne::optim
