// Stochastic gradient descent, with momentum on request.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "optim/optimizer.h"

namespace mnemosyne::optim {

// The rule of torch.optim.SGD, the same bits as its single-tensor CPU implementation; weight decay
// is decoupled, however. The update is the direction, its scale the negative learning rate.
//
// The momentum buffer starts as the gradient of a parameter's first step. If momentum is turned on
// later, it starts at zero instead, which differs only with dampening.
extern const OptimizerInfo kSgdInfo;

std::unique_ptr<Optimizer> MakeSgd(kernels::Backend& backend);

}  // namespace mnemosyne::optim
