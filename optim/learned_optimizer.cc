#include "optim/learned_optimizer.h"

#include <utility>

#include "base/error.h"
#include "optim/lstm/lstm_optimizer.h"

namespace mnemosyne::optim {

absl::StatusOr<OptimizerFactoryPtr> MakeLearnedOptimizer(std::shared_ptr<const Model> model) {
  if (model->kind() == "lstm" || model->kind() == "rnnprop") return MakeLstm(std::move(model));
  return InvalidArgument("unknown kind: '{}', expected lstm or rnnprop", model->kind());
}

}  // namespace mnemosyne::optim
