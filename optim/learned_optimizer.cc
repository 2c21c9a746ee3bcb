#include "optim/learned_optimizer.h"

#include <utility>

#include "base/error.h"
#include "optim/coordinate/coordinate_optimizer.h"
#include "optim/lstm/lstm_optimizer.h"
#include "optim/mnemosyne/mnemosyne_optimizer.h"

namespace mnemosyne::optim {

absl::StatusOr<OptimizerFactoryPtr> MakeLearnedOptimizer(std::shared_ptr<const Model> model) {
  if (model->kind() == "lstm" || model->kind() == "rnnprop") return MakeLstm(std::move(model));
  if (model->kind() == "mnemosyne") return MakeMnemosyne(std::move(model));
  if (model->kind() == "mnemosyne-coordinate") return MakeCoordinateMnemosyne(std::move(model));
  return InvalidArgument(
      "unknown kind: '{}', expected lstm, mnemosyne, mnemosyne-coordinate or rnnprop",
      model->kind());
}

}  // namespace mnemosyne::optim
