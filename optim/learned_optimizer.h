// Makes optimizers of models, by the kind that their config names.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "optim/model.h"
#include "optim/optimizer_factory.h"

namespace mnemosyne::optim {

// The optimizer of `model`. InvalidArgument if its kind is unknown or its tensors do not fit its
// config; the message names the tensor. Any thread.
absl::StatusOr<OptimizerFactoryPtr> MakeLearnedOptimizer(std::shared_ptr<const Model> model);

}  // namespace mnemosyne::optim
