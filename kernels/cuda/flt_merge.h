// What the parts of a sequence make of each other's sums: the sum over all, or what each starts
// from. A thread takes one number of the sums through all parts, in their order.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_numbers.h"
#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

// A number of the sums, and the maximum that it is relative to.
struct FltRunning {
  float maximum, number;

  MNEMOSYNE_DEVICE void Take(float other_maximum, float other, bool is_maximum) {
    const float most = fmaxf(maximum, other_maximum);
    const float own = number * FlushedExp(maximum - most);
    number = is_maximum ? most : fmaf(other, FlushedExp(other_maximum - most), own);
    maximum = most;
  }
};

// Whose maximum number `i` of the sums is relative to.
MNEMOSYNE_DEVICE uint32_t FeatureOfSum(const FltShape& shape, uint32_t i) {
  const uint32_t psi_end = shape.features * (1 + shape.masks);
  return i < psi_end ? i % shape.features : (i - psi_end) / shape.values % shape.features;
}

// Number `i` of the sum over `count` parts, whose sums are `stride` apart from `sums` on. A
// thread's loads are under way together; maxima come first, so that each part costs one
// exponential.
MNEMOSYNE_DEVICE float MergeAll(const float* sums, size_t stride, uint32_t count, uint32_t i,
                                uint32_t feature, bool scaled) {
  constexpr uint32_t kAtOnce = 16;
  float most = 0;
  if (scaled) {
    most = kFltNoKey;
    for (uint32_t p = 0; p < count; p += kAtOnce) {
      float maxima[kAtOnce];
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < kAtOnce; ++k) {
        maxima[k] = sums[(p + k < count ? p + k : p) * stride + feature];
      }
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < kAtOnce; ++k) most = fmaxf(most, maxima[k]);
    }
    if (i == feature) return most;
  }
  float sum = 0;
  for (uint32_t p = 0; p < count; p += kAtOnce) {
    float numbers[kAtOnce], factors[kAtOnce];
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      const float* const own = sums + (p + k < count ? p + k : p) * stride;
      numbers[k] = p + k < count ? own[i] : 0.0F;
      factors[k] = scaled ? own[feature] : 0.0F;
    }
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      sum = fmaf(numbers[k], Exp2((factors[k] - most) * kLog2OfE), sum);
    }
  }
  return sum;
}

// Number `i` of the sums of unit `u`: to starts[u], or, if causal, to starts[part] of its parts.
// Returns whether the state that it began with was finite.
MNEMOSYNE_DEVICE bool MergeNumber(const FltCall& call, uint32_t u, uint32_t i) {
  const FltShape& shape = call.shape;
  const size_t count = shape.SumCount();
  const FltUnit unit = call.units[u];
  const uint32_t feature = FeatureOfSum(shape, i);
  const bool is_maximum = i < shape.features, scaled = shape.exponential();
  FltRunning running = {scaled ? kFltNoKey : 0.0F, 0.0F};
  if (is_maximum) running.number = running.maximum;
  bool finite = true;
  if (call.arrays.state != nullptr) {
    const FltPart& part = call.parts[unit.first_part];
    const float* const state =
        call.arrays.state +
        (static_cast<size_t>(part.batch) * shape.heads + part.head) * (count + shape.positions);
    running.number = state[i];
    if (scaled) running.maximum = state[feature];
    finite = IsFinite(running.number);
  }
  const float* const own = call.sums + unit.first_part * count;
  if (!call.arrays.causal && call.arrays.state == nullptr) {
    call.starts[u * count + i] = MergeAll(own, count, unit.part_count, i, feature, scaled);
    return true;
  }
  constexpr uint32_t kAtOnce = 8;  // Parts whose loads are under way together.
  // Nothing needs the last part's own sums if causal.
  const uint32_t needed = unit.part_count - (call.arrays.causal ? 1 : 0);
  float* const start = call.starts + (call.arrays.causal ? unit.first_part : u) * count;
  for (uint32_t p = 0; p < unit.part_count; p += kAtOnce) {
    float maxima[kAtOnce], numbers[kAtOnce];
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      const bool there = p + k < needed;
      maxima[k] = there && scaled ? own[(p + k) * count + feature] : 0.0F;
      numbers[k] = there ? own[(p + k) * count + i] : 0.0F;
    }
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      if (call.arrays.causal && p + k < unit.part_count)
        start[(p + k) * count + i] = running.number;
      if (p + k < needed) running.Take(maxima[k], numbers[k], is_maximum);
    }
  }
  if (!call.arrays.causal) start[i] = running.number;
  return finite;
}

// Number `i` of the state of unit `u`, after the last part has answered.
MNEMOSYNE_DEVICE void WriteStateNumber(const FltCall& call, uint32_t u, uint32_t i) {
  const FltShape& shape = call.shape;
  const size_t count = shape.SumCount();
  const FltUnit unit = call.units[u];
  const uint32_t last = unit.first_part + unit.part_count - 1;
  const FltPart& part = call.parts[last];
  float* const state =
      call.arrays.state +
      (static_cast<size_t>(part.batch) * shape.heads + part.head) * (count + shape.positions);
  if (i < count) {
    state[i] = call.starts[last * count + i];
    return;
  }
  if (state[i] > kFltNoKey) return;
  const size_t entry = call.arrays.positions_per_batch ? part.batch : 0;
  state[i] =
      call.arrays
          .positions[(entry * call.arrays.length + part.start) * shape.positions + (i - count)];
}

}  // namespace mnemosyne::kernels::cuda
