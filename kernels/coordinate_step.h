// The op that takes one step of the coordinate-wise optimizer over many tensors at once.
//
// As the steps of optimizer_steps.h: reads gradients from `values`, advances the state, leaves
// updates in `values`. Each coordinate has a memory of its own; of the others of its tensor it
// knows means of squares, which are summed in float64 in a fixed order.
//
// With `replay` the state is that after the step: it is read and not written, the gradients are not
// looked at, and `values` and `square_sums` get the same bits as in the step. That is what the
// state keeps the update for: the log step size before the step, which it was made with, is gone.
#pragma once

#include <span>

#include "kernels/coordinate_sizes.h"
#include "kernels/segment.h"

namespace mnemosyne::kernels {

struct CoordinateStepArgs {
  std::span<const Segment> segments;          // [k], host; ascending, without overlap.
  std::span<const CoordinateTensor> tensors;  // [k], host.
  std::span<const float> told;   // [k, H], host: the hidden layer's bias, with what is known of the
                                 // tensor.
  const CoordinateModel& model;  // Host.
  const float* weights;          // [CoordinateWeightCount(sizes)], device
  float* values;                 // Arena: gradients in, updates out.
  float* fast;                   // Arena: r1
  float* slow;                   // Arena: r2
  float* square;                 // Arena: s
  float* log_step;               // Arena: l
  float* update;                 // Arena: u
  float* content;                // Arena of J M D numbers for each element: N, tile by tile.
  float* mass;                   // Arena of J M numbers for each element: Psi, tile by tile.
  std::span<double> square_sums;  // [k], host; of updates, in a fixed order.
  bool replay = false;            // Needs neither `told` nor what is in `tensors`.
};

}  // namespace mnemosyne::kernels
