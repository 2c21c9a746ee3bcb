// The optimizers that can be had by name: those that are code alone, and those of models.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "optim/optimizer_factory.h"

namespace mnemosyne::optim {

// Immutable; any thread. A change is another registry.
class OptimizerRegistry {
 public:
  // The classic optimizers, and `learned` ones, of which no two have the same name and version.
  explicit OptimizerRegistry(std::vector<OptimizerFactoryPtr> learned = {});

  // In order of name, then version, oldest first.
  std::span<const OptimizerFactoryPtr> factories() const { return factories_; }

  // The optimizer of that name, version and weights; an empty version is the newest, an empty hash
  // is any weights. NotFound with reason UNKNOWN_OPTIMIZER names those there are, or with reason
  // UNKNOWN_WEIGHTS tells which weights there are.
  absl::StatusOr<OptimizerFactoryPtr> Find(std::string_view name, std::string_view version,
                                           std::string_view weights_hash = {}) const;

  // Whether a classic optimizer has that name, so that no model can.
  static bool IsClassic(std::string_view name);

 private:
  std::vector<OptimizerFactoryPtr> factories_;
};

}  // namespace mnemosyne::optim
