#include "optim/mnemosyne/guard.h"

#include <algorithm>
#include <cmath>

namespace mnemosyne::optim {
namespace {

constexpr double kLevelMin = 0.01;

}  // namespace

void Guard::Watch(const LossTrace& trace, const ToldInputs& inputs, const GuardSettings& settings) {
  const auto means = trace.Means();
  const bool told = inputs.loss.has_value();
  const bool broken = told && !std::isfinite(*inputs.loss);
  double rise = 0;
  if (told && trace.mass[0] > 0) {
    best = std::min(best, means[1]);
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
