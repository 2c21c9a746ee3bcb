// The ops that take one step of an update rule over many tensors at once.
//
// All arenas of a call have the same layout; segments say which parts of them to work on, and each
// segment has its own coefficients. A step reads gradients from `values`, advances the state and
// leaves updates in `values`. With `replay`, the state is that after the step: it is read and not
// written, and `values` and `square_sums` get the same bits as in the step. Elements outside the
// segments are left alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/segment.h"
#include "kernels/step_coefficients.h"

namespace mnemosyne::kernels {

struct SgdStepArgs {
  std::span<const Segment> segments;              // [k], host; ascending, without overlap.
  std::span<const SgdCoefficients> coefficients;  // [k], host
  float* values;                                  // Arena: gradients in, updates out.
  float* momentum;                                // Arena
  std::span<double> square_sums;                  // [k], host; of updates, in a fixed order.
  bool replay = false;
};

struct AdamStepArgs {
  std::span<const Segment> segments;               // [k], host; ascending, without overlap.
  std::span<const AdamCoefficients> coefficients;  // [k], host
  float* values;                                   // Arena: gradients in, updates out.
  float* first_moment;                             // Arena: m
  float* second_moment;                            // Arena: v
  std::span<double> square_sums;                   // [k], host; of updates, in a fixed order.
  bool replay = false;
};

struct LionStepArgs {
  std::span<const Segment> segments;  // [k], host; as above, offsets multiples of kSignsPerWord.
  std::span<const LionCoefficients> coefficients;  // [k], host
  float* values;                                   // Arena: gradients in, updates out.
  float* momentum;                                 // Arena: m
  uint32_t* signs;                // Arena of one word for each kSignsPerWord elements.
  std::span<double> square_sums;  // [k], host; of updates.
  bool replay = false;
};

}  // namespace mnemosyne::kernels
