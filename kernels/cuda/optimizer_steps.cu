// Steps of the update rules of step_coefficients.h. A block of threads takes one block of work;
// bound by memory: the state is read and written once, a gradient read, an update
// written. Every rounding is explicit: the compiler fuses nothing of its own accord.
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

// Adds the square of `x`, which is exact in float64.
__device__ double AddSquare(double sum, float x) {
  return __fma_rn(static_cast<double>(x), static_cast<double>(x), sum);
}

__device__ void StoreSum(double square_sum, double* square_sums) {
  square_sum = SumOverThreads(square_sum);
  if (threadIdx.x == 0) square_sums[blockIdx.x] = square_sum;
}

// Four elements in a row; the first is at a multiple of four.
union Four {
  float4 all;
  float each[4];
};

// Memory that is read once and written once, past the first-level cache.
__device__ Four LoadFour(const float* p) { return {__ldcs(reinterpret_cast<const float4*>(p))}; }
__device__ void StoreFour(float* p, const Four& x) { __stcs(reinterpret_cast<float4*>(p), x.all); }

// Calls step(four numbers of each array in `arrays`) for the elements of a block, which it changes
// as far as it writes: four in a row at a time, those behind the last four one by one. Two loads of
// each array are under way together.
template <int kArrays, typename Step>
__device__ double StepElements(uint32_t count, float* const (&arrays)[kArrays],
                               const bool (&writes)[kArrays], const Step& step) {
  constexpr uint32_t kFours = 2;
  double square_sum = 0;
  const uint32_t whole = count / 4 * 4;
  for (uint32_t start = 4 * threadIdx.x; start < whole; start += 4 * kFours * kThreads) {
    Four x[kFours][kArrays];
#pragma unroll
    for (uint32_t k = 0; k < kFours; ++k) {
      const uint32_t i = start + 4 * k * kThreads;
#pragma unroll
      for (int a = 0; a < kArrays; ++a) {
        if (i < whole) x[k][a] = LoadFour(arrays[a] + i);
      }
    }
#pragma unroll
    for (uint32_t k = 0; k < kFours; ++k) {
      const uint32_t i = start + 4 * k * kThreads;
      if (i >= whole) break;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float numbers[kArrays];
#pragma unroll
        for (int a = 0; a < kArrays; ++a) numbers[a] = x[k][a].each[e];
        step(numbers);
#pragma unroll
        for (int a = 0; a < kArrays; ++a) x[k][a].each[e] = numbers[a];
        square_sum = AddSquare(square_sum, numbers[0]);
      }
#pragma unroll
      for (int a = 0; a < kArrays; ++a) {
        if (writes[a]) StoreFour(arrays[a] + i, x[k][a]);
      }
    }
  }
  for (uint32_t i = whole + threadIdx.x; i < count; i += kThreads) {
    float numbers[kArrays];
#pragma unroll
    for (int a = 0; a < kArrays; ++a) numbers[a] = arrays[a][i];
    step(numbers);
#pragma unroll
    for (int a = 0; a < kArrays; ++a) {
      if (writes[a]) arrays[a][i] = numbers[a];
    }
    square_sum = AddSquare(square_sum, numbers[0]);
  }
  return square_sum;
}

__global__ void SgdStep(const StepBlock* __restrict__ blocks,
                        const SgdCoefficients* __restrict__ coefficients, bool replay,
                        double* __restrict__ square_sums) {
  const StepBlock block = blocks[blockIdx.x];
  const SgdCoefficients c = coefficients[block.segment];
  double square_sum;
  if (c.momentum == 0) {
    float* const arrays[] = {block.values};
    const bool writes[] = {true};
    square_sum = StepElements(block.count, arrays, writes,
                              [&](float(&x)[1]) { x[0] = __fmul_rn(c.gradient_scale, x[0]); });
  } else {
    float* const arrays[] = {block.values, block.first};
    const bool writes[] = {true, !replay};
    square_sum = StepElements(block.count, arrays, writes, [&](float(&x)[2]) {
      const float d = __fmul_rn(c.gradient_scale, x[0]);
      if (!replay) {
        x[1] = c.first_step ? d : __fmaf_rn(d, c.gradient_weight, __fmul_rn(c.momentum, x[1]));
      }
      x[0] = c.nesterov ? __fmaf_rn(x[1], c.momentum, d) : x[1];
    });
  }
  StoreSum(square_sum, square_sums);
}

__global__ void AdamStep(const StepBlock* __restrict__ blocks,
                         const AdamCoefficients* __restrict__ coefficients, bool replay,
                         double* __restrict__ square_sums) {
  const StepBlock block = blocks[blockIdx.x];
  const AdamCoefficients c = coefficients[block.segment];
  float* const arrays[] = {block.values, block.first, block.second};
  const bool writes[] = {true, !replay, !replay};
  const double square_sum = StepElements(block.count, arrays, writes, [&](float(&x)[3]) {
    float& m = x[1];
    float& v = x[2];
    if (!replay) {
      const float d = __fmul_rn(c.gradient_scale, x[0]);
      m = __fmaf_rn(d, c.one_minus_beta1, __fmul_rn(c.beta1, m));
      v = __fmaf_rn(__fmul_rn(c.one_minus_beta2, d), d, __fmul_rn(c.beta2, v));
    }
    const float root = __fdiv_rn(__fsqrt_rn(v), c.bias_correction2_sqrt);
    x[0] = __fdiv_rn(__fmul_rn(c.negative_step_size, m), __fadd_rn(root, c.epsilon));
  });
  StoreSum(square_sum, square_sums);
}

// The threads of a warp hold 32 neighbours, two words of signs: all threads go through the loop the
// same number of times, so that they can vote.
__global__ void LionStep(const StepBlock* __restrict__ blocks,
                         const LionCoefficients* __restrict__ coefficients, bool replay,
                         double* __restrict__ square_sums) {
  constexpr unsigned kAllThreads = 0xFFFFFFFF;
  const StepBlock block = blocks[blockIdx.x];
  const LionCoefficients c = coefficients[block.segment];
  const unsigned shift = threadIdx.x % 32 / kSignsPerWord * kSignsPerWord;
  const unsigned bit = threadIdx.x % kSignsPerWord;
  double square_sum = 0;
  float* const __restrict__ values = block.values, * const __restrict__ momentum = block.first;
  for (uint32_t start = 0; start < block.count; start += kThreads) {
    const uint32_t i = start + threadIdx.x;
    const bool active = i < block.count;
    uint32_t word = 0;
    if (replay) {
      if (active) word = block.signs[i / kSignsPerWord];
    } else {
      float direction = 0;
      if (active) {
        const float d = __fmul_rn(c.gradient_scale, values[i]);
        const float m = momentum[i];
        direction = __fadd_rn(__fmul_rn(c.beta1, m), __fmul_rn(c.one_minus_beta1, d));
        momentum[i] = __fmaf_rn(d, c.one_minus_beta2, __fmul_rn(c.beta2, m));
      }
      const uint32_t negative = __ballot_sync(kAllThreads, direction < 0) >> shift & 0xFFFF;
      const uint32_t positive = __ballot_sync(kAllThreads, direction > 0) >> shift & 0xFFFF;
      word = negative | positive << 16;
      if (active && bit == 0) block.signs[i / kSignsPerWord] = word;
    }
    if (active) {
      const int sign = static_cast<int>(word >> (16 + bit) & 1) - static_cast<int>(word >> bit & 1);
      const float update = static_cast<float>(sign);
      values[i] = update;
      square_sum = AddSquare(square_sum, update);
    }
  }
  StoreSum(square_sum, square_sums);
}

}  // namespace

cudaError_t LaunchSgdStep(const StepBlock* blocks, size_t block_count,
                          const SgdCoefficients* coefficients, bool replay, double* square_sums,
                          cudaStream_t stream) {
  SgdStep<<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(blocks, coefficients, replay,
                                                                       square_sums);
  return cudaGetLastError();
}

cudaError_t LaunchAdamStep(const StepBlock* blocks, size_t block_count,
                           const AdamCoefficients* coefficients, bool replay, double* square_sums,
                           cudaStream_t stream) {
  AdamStep<<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(blocks, coefficients,
                                                                        replay, square_sums);
  return cudaGetLastError();
}

cudaError_t LaunchLionStep(const StepBlock* blocks, size_t block_count,
                           const LionCoefficients* coefficients, bool replay, double* square_sums,
                           cudaStream_t stream) {
  LionStep<<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(blocks, coefficients,
                                                                        replay, square_sums);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
