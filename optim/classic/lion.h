// Lion: steps of the same size for all elements, in the direction of a sign.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "optim/optimizer.h"

namespace mnemosyne::optim {

// The update is -1, 0 or 1, its scale the negative learning rate. Beside its momentum an element
// keeps two bits, the sign of its last update: the momentum after a step does not tell it.
//
// Reference: Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023
// (arXiv:2302.06675), algorithm 2.
extern const OptimizerInfo kLionInfo;

std::unique_ptr<Optimizer> MakeLion(kernels::Backend& backend);

}  // namespace mnemosyne::optim
