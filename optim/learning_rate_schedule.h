// How the learning rate changes with the step.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace mnemosyne::optim {

// The factor on the learning rate of step t, counted from 1:
//
//   t <= warmup_steps:  t / warmup_steps
//   after it, with x = min(1, (t - 1 - warmup_steps) / (total_steps - warmup_steps)):
//     constant  1
//     linear    1 + (final_factor - 1) x
//     cosine    final_factor + (1 - final_factor) (1 + cos(pi x)) / 2
struct LearningRateSchedule {
  enum class Shape { kConstant, kLinear, kCosine };

  Shape shape = Shape::kConstant;
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;
  double final_factor = 0;

  // InvalidArgument for negative steps, a final factor outside [0, 1], or a linear or cosine shape
  // whose total_steps is not above its warmup_steps.
  absl::Status Check() const;

  // The factor of step `step`, which is at least 1.
  double Factor(int64_t step) const;
};

}  // namespace mnemosyne::optim
