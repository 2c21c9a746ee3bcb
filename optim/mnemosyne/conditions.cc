#include "optim/mnemosyne/conditions.h"

#include <algorithm>
#include <cmath>

namespace mnemosyne::optim {
namespace {

// The fan-in for which the step sizes of matrices are given.
constexpr double kReferenceWidth = 64;

// Most of the log of a scale, in magnitude.
constexpr double kLogMax = 4;

}  // namespace

double PriorStepSize(const StepPrior& prior, double fan_in) {
  if (fan_in <= 1) return prior.vector;
  return prior.matrix * std::exp(-prior.width_exponent * std::log(fan_in / kReferenceWidth));
}

std::array<float, ChunkLayout::kShapeFeatureCount> ShapeFeatures(const ParameterSpec& parameter,
                                                                 const Fans& fans) {
  const auto count = static_cast<double>(*ElementCount(parameter.shape));
  return {static_cast<float>(0.25 * std::log(fans.in)),
          static_cast<float>(0.25 * std::log(fans.out)), static_cast<float>(0.1 * std::log(count)),
          parameter.shape.size() > 1 ? 1.0F : 0.0F};
}

ScaleRecord ScaleOf(double rms, double fan_in) {
  const double square = rms * rms * fan_in;
  if (!(square > 0) || !std::isfinite(square)) return {};
  return {static_cast<float>(0.5 * std::clamp(0.5 * std::log(square), -kLogMax, kLogMax)), 1};
}

Conditions JoinConditions(const std::array<float, ChunkLayout::kShapeFeatureCount>& shape,
                          const std::array<float, kSharedFeatureCount>& shared,
                          const ScaleRecord& scale) {
  Conditions conditions;
  float* next = std::copy(shape.begin(), shape.end(), conditions.data());
  next = std::copy(shared.begin(), shared.end(), next);
  *next++ = scale.log_rms;
  *next++ = scale.told;
  return conditions;
}

}  // namespace mnemosyne::optim
