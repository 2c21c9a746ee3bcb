// Functions of one thread that the kernels share, written so that tests run them on a CPU.
#pragma once

#include <math.h>
#include <stddef.h>

#include "kernels/anywhere.h"
#include "kernels/mnemosyne_sizes.h"

#ifdef __CUDACC__
#define MNEMOSYNE_DEVICE __device__ __forceinline__
#define MNEMOSYNE_DEVICE_ASIDE __device__ __noinline__
#define MNEMOSYNE_UNROLL_ALL _Pragma("unroll")
#else
#define MNEMOSYNE_DEVICE inline
#define MNEMOSYNE_DEVICE_ASIDE
#define MNEMOSYNE_UNROLL_ALL
#endif

namespace mnemosyne::kernels::cuda {

// The sums over the coordinates of a cell, as the flagship's programs keep them: squares of g, of
// r1 and r2 as they were, the new s, what the memories said before this step, the directions of
// this step and of Adam; then products of two of them.
enum CellSum : int {
  kGrad2,
  kOld2,
  kSquare,
  kSlow2,
  kPrevious2,
  kSharp2,
  kSmooth2,
  kGradOld,
  kSharpSlow,
  kSmoothSlow,
  kSharpPrevious,
  kSums,
};

// phi_k(x) for x [inputs].
MNEMOSYNE_DEVICE float FeatureOf(const FeatureMapSizes& sizes, const MapWeights& weights,
                                 const float* x, size_t k) {
  const auto rectified = [&](size_t i) {
    const float value = i < sizes.inputs ? x[i] : -x[i - sizes.inputs];
    return value > 0 ? value : 0.0F;
  };
  if (sizes.shape == FeatureMapShape::kElu) return x[k] > 0 ? x[k] + 1 : expf(x[k]);
  if (sizes.shape == FeatureMapShape::kDpfp) {
    const size_t twice = 2 * sizes.inputs, shift = k / twice + 1, at = k % twice;
    return rectified(at) * rectified((at + twice - shift % twice) % twice);
  }
  const bool hyperbolic = sizes.shape == FeatureMapShape::kHyperbolic;
  const size_t count = hyperbolic ? sizes.features / 2 : sizes.features;
  const size_t stride = (count + kWeightColumns - 1) / kWeightColumns * kWeightColumns;
  const size_t column = k % count;
  float sum = weights.b == nullptr || hyperbolic ? 0.0F : weights.b[column];
  float square = 0;
  for (size_t i = 0; i < sizes.inputs; ++i) {
    sum = fmaf(x[i], weights.w[i * stride + column], sum);
    square = fmaf(x[i], x[i], square);
  }
  if (sizes.shape == FeatureMapShape::kRelu) {
    return fmaf(sizes.scale, sum > 0 ? sum : 0.0F, sizes.epsilon);
  }
  return sizes.scale * expf((k < count ? sum : -sum) - 0.5F * square);
}

// Output k of x W + b.
MNEMOSYNE_DEVICE float OutputOf(const DenseWeights& weights, const float* x, size_t inputs,
                                size_t outputs, size_t k) {
  const size_t stride = (outputs + kWeightColumns - 1) / kWeightColumns * kWeightColumns;
  float sum = weights.b[k];
  for (size_t i = 0; i < inputs; ++i) sum = fmaf(x[i], weights.w[i * stride + k], sum);
  return sum;
}

// x / sqrt(1 + |x|^2) of `width` numbers.
MNEMOSYNE_DEVICE void BoundInto(const float* x, size_t width, float* y) {
  float square = 1;
  for (size_t i = 0; i < width; ++i) square = fmaf(x[i], x[i], square);
  const float factor = 1 / sqrtf(square);
  for (size_t i = 0; i < width; ++i) y[i] = x[i] * factor;
}

MNEMOSYNE_DEVICE float QuotientOrZero(float above, float below) {
  return fabsf(below) > kDenominatorMin ? above / below : 0.0F;
}

}  // namespace mnemosyne::kernels::cuda
