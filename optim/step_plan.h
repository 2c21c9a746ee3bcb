// What is decided about a step before any state changes: who takes part, at which rate, scaled by
// what. A session keeps the plan of its last step, so that a resend is answered with the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "optim/hyperparameters.h"

namespace mnemosyne::optim {

// One parameter's part in a step.
struct ParameterStep {
  bool takes_part = true;    // False: no update is made and the state stays.
  int64_t clock = 0;         // Steps this parameter has taken part in, this one included.
  float gradient_scale = 1;  // Clipping: the optimizer sees gradient * gradient_scale.
};

// One group's values for a step.
struct GroupStep {
  double learning_rate = 0;     // Schedule and factors included.
  HyperparameterValues values;  // In the order of the optimizer's table.
};

struct StepPlan {
  int64_t step = 0;
  std::vector<ParameterStep> parameters;  // [parameters of the layout]
  std::vector<GroupStep> groups;          // [groups of the session], at least one

  // What the client may tell, for optimizers that can use it.
  std::optional<double> loss;        // The training loss of this step; need not be finite.
  std::optional<int64_t> horizon;    // Steps that the job will take in all; at least 1.
  std::vector<float> parameter_rms;  // [parameters of the layout], or empty.
};

}  // namespace mnemosyne::optim
