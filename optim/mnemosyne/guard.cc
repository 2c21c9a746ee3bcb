#include "optim/mnemosyne/guard.h"

#include <algorithm>
#include <cmath>

namespace mnemosyne::optim {
namespace {

constexpr double kLevelMin = 0.01;

}  // namespace

void Guard::Watch(const LossTrace& trace, const ToldInputs& inputs, const GuardSettings& settings) {
  const auto means = trace.Means();
  const bool has_loss = inputs.loss.has_value();
  const bool broken = has_loss && !std::isfinite(*inputs.loss);
  double rise = 0;
  if (has_loss && trace.mass[0] > 0) {
    best = told != 0 ? std::min(best, means[1]) : means[1];
    told = 1;
    rise = means[0] - best;
  }
  const bool trips_now = broken || rise > settings.margin;
  const bool is_held = level > 0 && rise > settings.release;
  double next = settings.recovery * level;
  if (next < kLevelMin) next = 0;
  if (trips_now || is_held) next = 1;
  next *= settings.gate;
  if (trips_now && level == 0 && next > 0) ++trips;
  level = next;
}

}  // namespace mnemosyne::optim
