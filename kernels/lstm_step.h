// The op that takes one step of the coordinate-wise LSTM optimizers over many tensors at once.
//
// As the steps of optimizer_steps.h: reads gradients from `values`, advances the state, leaves
// updates in `values`. With `replay` the state is that after the step: it is read and not written,
// the gradients are not looked at, and `values` and `square_sums` get the same bits as in the step.
#pragma once

#include <span>

#include "kernels/lstm_sizes.h"
#include "kernels/segment.h"

namespace mnemosyne::kernels {

struct LstmStepArgs {
  std::span<const Segment> segments;               // [k], host; ascending, without overlap.
  std::span<const LstmCoefficients> coefficients;  // [k], host
  LstmSizes sizes;
  const float* weights;           // [LstmWeightCount(sizes)], device
  float* values;                  // Arena: gradients in, updates out.
  float* hidden;                  // Arena of S numbers for each element: tile by tile.
  float* cell;                    // The same.
  float* mean;                    // Arena; null unless normalized.
  float* square;                  // Arena; null unless normalized.
  std::span<double> square_sums;  // [k], host; of updates, in a fixed order.
  bool replay = false;
};

}  // namespace mnemosyne::kernels
