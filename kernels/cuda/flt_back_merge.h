// What the parts of a sequence make of each other's sums over queries, and the sums of all parts'
// gradients. A thread takes one number through all parts, in their order or against it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_merge.h"

namespace mnemosyne::kernels::cuda {

// Number `i` of the sums over queries of unit `u`: to starts[u], or, if causal, to starts[part] the
// sum over the parts after it.
MNEMOSYNE_DEVICE void MergeQueryNumber(const FltBackCall& call, uint32_t u, uint32_t i) {
  const FltShape& shape = call.forward.shape;
  const size_t count = call.QuerySumCount();
  const FltUnit unit = call.forward.units[u];
  const uint32_t sums = shape.SumCount();
  const uint32_t feature = i < sums ? FeatureOfSum(shape, i) : i - sums;
  const bool scaled = shape.exponential(), causal = call.forward.arrays.causal;
  const float* const own = call.sums + unit.first_part * count;
  if (!causal) {
    call.starts[u * count + i] = MergeAll(own, count, unit.part_count, i, feature, scaled);
    return;
  }
  const bool is_maximum = i < shape.features;
  FltRunning running = {scaled ? kFltNoKey : 0.0F, 0.0F};
  if (is_maximum) running.number = running.maximum;
  float* const start = call.starts + unit.first_part * count;
  for (uint32_t p = unit.part_count; p-- > 0;) {
    start[p * count + i] = running.number;
    running.Take(scaled ? own[p * count + feature] : 0.0F, own[p * count + i], is_maximum);
  }
}

// Number `i` of the gradients of head `h`.
MNEMOSYNE_DEVICE void AddToTotal(const FltBackCall& call, uint32_t count, uint32_t h, uint32_t i) {
  double sum = call.totals[static_cast<size_t>(h) * count + i];
  for (uint32_t u = 0; u < call.forward.unit_count; ++u) {
    const FltUnit unit = call.forward.units[u];
    if (call.forward.parts[unit.first_part].head != h) continue;
    for (uint32_t p = unit.first_part; p < unit.first_part + unit.part_count; ++p) {
      sum += static_cast<double>(call.gradients[static_cast<size_t>(p) * count + i]);
    }
  }
  call.totals[static_cast<size_t>(h) * count + i] = sum;
}

}  // namespace mnemosyne::kernels::cuda
