// Steps of the update rules of step_coefficients.h. A block of threads takes one block of work, its
// threads strided; bound by memory: the state is read and written once, a gradient read, an update
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

__global__ void SgdStep(const Block* __restrict__ blocks,
                        const SgdCoefficients* __restrict__ coefficients, bool replay,
                        float* __restrict__ values, float* __restrict__ momentum,
                        double* __restrict__ square_sums) {
  const Block block = blocks[blockIdx.x];
  const SgdCoefficients c = coefficients[block.segment];
  double square_sum = 0;
  for (size_t i = block.offset + threadIdx.x; i < block.offset + block.count; i += kThreads) {
    const float d = __fmul_rn(c.gradient_scale, values[i]);
    float update = d;
    if (c.momentum != 0) {
      float b = momentum[i];
      if (!replay) {
        b = c.first_step ? d : __fmaf_rn(d, c.gradient_weight, __fmul_rn(c.momentum, b));
        momentum[i] = b;
      }
      update = c.nesterov ? __fmaf_rn(b, c.momentum, d) : b;
    }
    values[i] = update;
    square_sum = AddSquare(square_sum, update);
  }
  StoreSum(square_sum, square_sums);
}

__global__ void AdamStep(const Block* __restrict__ blocks,
                         const AdamCoefficients* __restrict__ coefficients, bool replay,
                         float* __restrict__ values, float* __restrict__ first_moment,
                         float* __restrict__ second_moment, double* __restrict__ square_sums) {
  const Block block = blocks[blockIdx.x];
  const AdamCoefficients c = coefficients[block.segment];
  double square_sum = 0;
  for (size_t i = block.offset + threadIdx.x; i < block.offset + block.count; i += kThreads) {
    float m = first_moment[i];
    float v = second_moment[i];
    if (!replay) {
      const float d = __fmul_rn(c.gradient_scale, values[i]);
      m = __fmaf_rn(d, c.one_minus_beta1, __fmul_rn(c.beta1, m));
      v = __fmaf_rn(__fmul_rn(c.one_minus_beta2, d), d, __fmul_rn(c.beta2, v));
      first_moment[i] = m;
      second_moment[i] = v;
    }
    const float root = __fdiv_rn(__fsqrt_rn(v), c.bias_correction2_sqrt);
    const float update = __fdiv_rn(__fmul_rn(c.negative_step_size, m), __fadd_rn(root, c.epsilon));
    values[i] = update;
    square_sum = AddSquare(square_sum, update);
  }
  StoreSum(square_sum, square_sums);
}

// The threads of a warp hold 32 neighbours, two words of signs: all threads go through the loop the
// same number of times, so that they can vote.
__global__ void LionStep(const Block* __restrict__ blocks,
                         const LionCoefficients* __restrict__ coefficients, bool replay,
                         float* __restrict__ values, float* __restrict__ momentum,
                         uint32_t* __restrict__ signs, double* __restrict__ square_sums) {
  constexpr unsigned kAllThreads = 0xFFFFFFFF;
  const Block block = blocks[blockIdx.x];
  const LionCoefficients c = coefficients[block.segment];
  const unsigned shift = threadIdx.x % 32 / kSignsPerWord * kSignsPerWord;
  const unsigned bit = threadIdx.x % kSignsPerWord;
  double square_sum = 0;
  for (size_t start = 0; start < block.count; start += kThreads) {
    const size_t i = block.offset + start + threadIdx.x;
    const bool active = start + threadIdx.x < block.count;
    uint32_t word = 0;
    if (replay) {
      if (active) word = signs[i / kSignsPerWord];
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
      if (active && bit == 0) signs[i / kSignsPerWord] = word;
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

cudaError_t LaunchSgdStep(const Block* blocks, size_t block_count,
                          const SgdCoefficients* coefficients, bool replay, float* values,
                          float* momentum, double* square_sums, cudaStream_t stream) {
  SgdStep<<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(
      blocks, coefficients, replay, values, momentum, square_sums);
  return cudaGetLastError();
}

cudaError_t LaunchAdamStep(const Block* blocks, size_t block_count,
                           const AdamCoefficients* coefficients, bool replay, float* values,
                           float* first_moment, float* second_moment, double* square_sums,
                           cudaStream_t stream) {
  AdamStep<<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(
      blocks, coefficients, replay, values, first_moment, second_moment, square_sums);
  return cudaGetLastError();
}

cudaError_t LaunchLionStep(const Block* blocks, size_t block_count,
                           const LionCoefficients* coefficients, bool replay, float* values,
                           float* momentum, uint32_t* signs, double* square_sums,
                           cudaStream_t stream) {
  LionStep<<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(
      blocks, coefficients, replay, values, momentum, signs, square_sums);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
