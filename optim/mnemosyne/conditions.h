// What the optimizers of the family are told of a parameter besides its gradients, and the step
// size that they start from. metatrain's conditions.py is the specification.
#pragma once

#include <array>
#include <cstddef>

#include "kernels/mnemosyne_sizes.h"
#include "optim/mnemosyne/chunk_layout.h"
#include "optim/mnemosyne/loss_trace.h"
#include "optim/mnemosyne/mnemosyne_state.h"
#include "optim/parameter_spec.h"

namespace mnemosyne::optim {

// Step sizes at a zero decoder.
struct StepPrior {
  double vector = 0;          // Of biases, gains and embeddings,
  double matrix = 0;          // of a matrix of fan-in 64,
  double width_exponent = 0;  // and how fast it falls with the fan-in.
};
double PriorStepSize(const StepPrior& prior, double fan_in);

// Logs of fan-in, fan-out and size, and whether there are two axes or more.
std::array<float, ChunkLayout::kShapeFeatureCount> ShapeFeatures(const ParameterSpec& parameter,
                                                                 const Fans& fans);

// From the rms of a parameter at the start, which need not be finite.
ScaleRecord ScaleOf(double rms, double fan_in);

// All that is told, in the order of the weights.
using Conditions = std::array<float, kernels::kConditionCount>;
Conditions JoinConditions(const std::array<float, ChunkLayout::kShapeFeatureCount>& shape,
                          const std::array<float, kSharedFeatureCount>& shared,
                          const ScaleRecord& scale);

}  // namespace mnemosyne::optim
