// The op that looks at gradients before a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/segment.h"

namespace mnemosyne::kernels {

// Of one segment.
struct GradientStatistics {
  double square_sum = 0;         // Of its finite elements, summed in float64 in a fixed order.
  int64_t non_finite_count = 0;  // NaN and infinities.
};

struct GradientStatisticsArgs {
  std::span<const Segment> segments;         // [k], host; ascending, without overlap.
  const float* values;                       // Arena on the device.
  std::span<GradientStatistics> statistics;  // [k], host; written before the call returns.
};

}  // namespace mnemosyne::kernels
