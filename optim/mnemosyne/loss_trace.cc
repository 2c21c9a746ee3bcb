#include "optim/mnemosyne/loss_trace.h"

#include <algorithm>
#include <cmath>

namespace mnemosyne::optim {
namespace {

constexpr std::array<double, LossTrace::kSpans> kDecays = {0.8, 0.97, 0.997};
constexpr double kLossMin = 1e-8;
constexpr double kDifferenceMax = 2;

bool IsTold(const ToldInputs& inputs) { return inputs.loss && std::isfinite(*inputs.loss); }

double LogLoss(const ToldInputs& inputs) { return std::log(std::max(*inputs.loss, kLossMin)); }

}  // namespace

void LossTrace::Add(const ToldInputs& inputs) {
  if (!IsTold(inputs)) return;
  for (size_t i = 0; i < kSpans; ++i) {
    sums[i] = kDecays[i] * sums[i] + (1 - kDecays[i]) * LogLoss(inputs);
    mass[i] = kDecays[i] * mass[i] + (1 - kDecays[i]);
  }
}

std::array<double, LossTrace::kSpans> LossTrace::Means() const {
  std::array<double, kSpans> means = {};
  for (size_t i = 0; i < kSpans; ++i) means[i] = mass[i] > 0 ? sums[i] / mass[i] : 0;
  return means;
}

std::array<float, kSharedFeatureCount> SharedFeatures(const LossTrace& trace,
                                                      const ToldInputs& inputs, double age) {
  const std::array<double, LossTrace::kSpans> means = trace.Means();
  const bool told = IsTold(inputs);
  const auto difference = [&](double a, double b) {
    return told ? static_cast<float>(std::clamp(a - b, -kDifferenceMax, kDifferenceMax)) : 0.0F;
  };
  return {static_cast<float>(0.15 * std::log(age)),
          static_cast<float>(std::exp(-0.1 * (age - 1))),
          difference(told ? LogLoss(inputs) : means[0], means[0]),
          difference(means[0], means[1]),
          difference(means[1], means[2]),
          told ? 1.0F : 0.0F,
          inputs.progress ? static_cast<float>(1 - *inputs.progress) : 0.0F,
          inputs.progress ? 1.0F : 0.0F};
}

}  // namespace mnemosyne::optim
