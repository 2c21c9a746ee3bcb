#include "optim/learning_rate_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace mnemosyne::optim {

absl::Status LearningRateSchedule::Check() const {
  if (warmup_steps < 0 || total_steps < 0) {
    return InvalidArgument("negative steps: warmup_steps is {}, total_steps is {}", warmup_steps,
                           total_steps);
  }
  if (!(final_factor >= 0 && final_factor <= 1)) {
    return InvalidArgument("wrong final factor: {}, expected a number from 0 to 1", final_factor);
  }
  if (shape != Shape::kConstant && total_steps <= warmup_steps) {
    return InvalidArgument(
        "schedule too short: total_steps is {}, expected more than the {} of "
        "warmup_steps",
        total_steps, warmup_steps);
  }
  return absl::OkStatus();
}

double LearningRateSchedule::Factor(int64_t step) const {
  if (step <= warmup_steps) return static_cast<double>(step) / static_cast<double>(warmup_steps);
  if (shape == Shape::kConstant) return 1;
  const double progress = std::min(1.0, static_cast<double>(step - 1 - warmup_steps) /
                                            static_cast<double>(total_steps - warmup_steps));
  if (shape == Shape::kLinear) return 1 + (final_factor - 1) * progress;
  return final_factor + (1 - final_factor) * (1 + std::cos(std::numbers::pi * progress)) / 2;
}

}  // namespace mnemosyne::optim
