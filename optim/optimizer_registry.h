// The optimizers that can be had by name.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "optim/optimizer.h"

namespace mnemosyne::optim {

// All optimizers, in order of name, then version. Any thread.
std::span<const OptimizerInfo* const> ListOptimizers();

// The optimizer of that name and version; an empty version is the newest. NotFound with reason
// UNKNOWN_OPTIMIZER names those there are.
absl::StatusOr<const OptimizerInfo*> FindOptimizer(std::string_view name, std::string_view version);

// Makes an optimizer on `backend`, which outlives it. NotFound as FindOptimizer.
absl::StatusOr<std::unique_ptr<Optimizer>> CreateOptimizer(std::string_view name,
                                                           std::string_view version,
                                                           kernels::Backend& backend);

}  // namespace mnemosyne::optim
