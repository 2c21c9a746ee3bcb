// What makes an optimizer on a device: known by name before any device is.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "optim/optimizer.h"

namespace mnemosyne::optim {

// Immutable; any thread. One with weights is retired when nobody holds it any more.
class OptimizerFactory {
 public:
  virtual ~OptimizerFactory() = default;

  // Valid as long as the factory.
  virtual const OptimizerInfo& info() const = 0;

  // Makes the optimizer on `backend`. Both the factory and the backend outlive it.
  // ResourceExhausted if the device has no room for its weights. On the backend's thread.
  virtual absl::StatusOr<std::unique_ptr<Optimizer>> Create(kernels::Backend& backend) const = 0;
};

using OptimizerFactoryPtr = std::shared_ptr<const OptimizerFactory>;

}  // namespace mnemosyne::optim
