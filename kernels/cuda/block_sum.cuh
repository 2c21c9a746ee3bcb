// Adding up a number of each thread of a block.
#pragma once

namespace mnemosyne::kernels::cuda {

constexpr int kThreads = 256;  // Of a block; a power of two.

// The sum of `value` over the threads of a block, in a fixed tree; thread 0 gets it, the others get
// parts of it. For one call of a type T in a kernel.
template <typename T>
__device__ T SumOverThreads(T value) {
  __shared__ T values[kThreads];
  values[threadIdx.x] = value;
  for (unsigned width = kThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (threadIdx.x < width) values[threadIdx.x] = value += values[threadIdx.x + width];
  }
  return value;
}

}  // namespace mnemosyne::kernels::cuda
