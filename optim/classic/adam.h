// Adam, and AdamW, which differs in its default decay alone: decay is decoupled in both.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "optim/optimizer.h"

namespace mnemosyne::optim {

// The rules of torch.optim.Adam and AdamW, the same bits as their single-tensor CPU
// implementations. The update holds the learning rate, its scale is 1.
//
// Reference: Kingma and Ba, "Adam", ICLR 2015 (arXiv:1412.6980); Loshchilov and Hutter, "Decoupled
// Weight Decay Regularization", ICLR 2019 (arXiv:1711.05101).
extern const OptimizerInfo kAdamInfo;
extern const OptimizerInfo kAdamWInfo;

std::unique_ptr<Optimizer> MakeAdam(kernels::Backend& backend);
std::unique_ptr<Optimizer> MakeAdamW(kernels::Backend& backend);

}  // namespace mnemosyne::optim
