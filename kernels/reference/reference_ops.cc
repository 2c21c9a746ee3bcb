#include "kernels/reference/reference_ops.h"

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace mnemosyne::kernels::reference {
namespace {

// Calls element(coefficients, i) for each element of each segment. It returns the update, which is
// stored; square_sums get the sums of the squares of what was stored.
template <typename Args, typename Element>
void ForEachElement(const Args& args, Element element) {
  for (size_t k = 0; k < args.segments.size(); ++k) {
    const Segment& segment = args.segments[k];
    double square_sum = 0;
    for (size_t i = segment.offset; i < segment.offset + segment.count; ++i) {
      args.values[i] = static_cast<float>(element(args.coefficients[k], i));
      square_sum += static_cast<double>(args.values[i]) * args.values[i];
    }
    args.square_sums[k] = square_sum;
  }
}

}  // namespace

void MeasureGradients(const GradientStatisticsArgs& args) {
  for (size_t k = 0; k < args.segments.size(); ++k) {
    const Segment& segment = args.segments[k];
    GradientStatistics& statistics = args.statistics[k];
    statistics = {};
    for (size_t i = segment.offset; i < segment.offset + segment.count; ++i) {
      const double g = args.values[i];
      if (std::isfinite(g)) {
        statistics.square_sum += g * g;
      } else {
        ++statistics.non_finite_count;
      }
    }
  }
}

void ZeroNonFinite(std::span<const Segment> segments, float* values) {
  for (const Segment& segment : segments) {
    for (size_t i = segment.offset; i < segment.offset + segment.count; ++i) {
      if (!std::isfinite(values[i])) values[i] = 0;
    }
  }
}

void SgdStep(const SgdStepArgs& args) {
  ForEachElement(args, [&](const SgdCoefficients& c, size_t i) -> double {
    const double d = static_cast<double>(c.gradient_scale) * args.values[i];
    if (c.momentum == 0) return d;
    if (!args.replay) {
      const double decayed = static_cast<double>(c.momentum) * args.momentum[i];
      args.momentum[i] = static_cast<float>(c.first_step ? d : decayed + c.gradient_weight * d);
    }
    const double b = args.momentum[i];
    return c.nesterov ? d + c.momentum * b : b;
  });
}

void AdamStep(const AdamStepArgs& args) {
  ForEachElement(args, [&](const AdamCoefficients& c, size_t i) -> double {
    if (!args.replay) {
      const double d = static_cast<double>(c.gradient_scale) * args.values[i];
      args.first_moment[i] = static_cast<float>(
          static_cast<double>(c.beta1) * args.first_moment[i] + c.one_minus_beta1 * d);
      args.second_moment[i] = static_cast<float>(
          static_cast<double>(c.beta2) * args.second_moment[i] + c.one_minus_beta2 * d * d);
    }
    const double m = args.first_moment[i];
    const double v = args.second_moment[i];
    return c.negative_step_size * m / (std::sqrt(v) / c.bias_correction2_sqrt + c.epsilon);
  });
}

void LionStep(const LionStepArgs& args) {
  ForEachElement(args, [&](const LionCoefficients& c, size_t i) -> double {
    uint32_t& word = args.signs[i / kSignsPerWord];
    const uint32_t negative = uint32_t{1} << (i % kSignsPerWord);
    const uint32_t positive = negative << kSignsPerWord;
    if (!args.replay) {
      const double d = static_cast<double>(c.gradient_scale) * args.values[i];
      const double m = args.momentum[i];
      const double direction = c.beta1 * m + c.one_minus_beta1 * d;
      word &= ~(negative | positive);
      if (direction < 0) word |= negative;
      if (direction > 0) word |= positive;
      args.momentum[i] = static_cast<float>(c.beta2 * m + c.one_minus_beta2 * d);
    }
    if (word & negative) return -1;
    return word & positive ? 1 : 0;
  });
}

}  // namespace mnemosyne::kernels::reference
