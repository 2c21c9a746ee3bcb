// Measures gradients, and mends those that are not finite. A block of threads takes one block of
// work, its threads strided; bound by memory: reads 4 bytes an element, and the mending writes 4.
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

__device__ bool IsFinite(float x) { return (__float_as_uint(x) & 0x7F800000U) != 0x7F800000U; }

__global__ void MeasureGradients(const StepBlock* __restrict__ blocks,
                                 double* __restrict__ square_sums,
                                 int64_t* __restrict__ non_finite_counts) {
  const StepBlock block = blocks[blockIdx.x];
  double square_sum = 0;
  int64_t non_finite = 0;
  for (uint32_t i = threadIdx.x; i < block.count; i += kThreads) {
    const float g = block.values[i];
    if (IsFinite(g)) {
      square_sum = __fma_rn(static_cast<double>(g), static_cast<double>(g), square_sum);
    } else {
      ++non_finite;
    }
  }
  square_sum = SumOverThreads(square_sum);
  non_finite = SumOverThreads(non_finite);
  if (threadIdx.x == 0) {
    square_sums[blockIdx.x] = square_sum;
    non_finite_counts[blockIdx.x] = non_finite;
  }
}

template <bool kAll>
__global__ void Zero(const Block* __restrict__ blocks, float* __restrict__ values) {
  const Block block = blocks[blockIdx.x];
  for (size_t i = threadIdx.x; i < block.count; i += kThreads) {
    float& x = values[block.offset + i];
    if (kAll || !IsFinite(x)) x = 0;
  }
}

__global__ void Trap() { asm("trap;"); }

}  // namespace

cudaError_t LaunchTrap(cudaStream_t stream) {
  Trap<<<1, 1, 0, stream>>>();
  return cudaGetLastError();
}

cudaError_t LaunchMeasureGradients(const StepBlock* blocks, size_t block_count, double* square_sums,
                                   int64_t* non_finite_counts, cudaStream_t stream) {
  MeasureGradients<<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(blocks, square_sums,
                                                                                non_finite_counts);
  return cudaGetLastError();
}

cudaError_t LaunchZeroNonFinite(const Block* blocks, size_t block_count, float* values,
                                cudaStream_t stream) {
  Zero<false><<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(blocks, values);
  return cudaGetLastError();
}

cudaError_t LaunchSetZero(const Block* blocks, size_t block_count, float* values,
                          cudaStream_t stream) {
  Zero<true><<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(blocks, values);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
