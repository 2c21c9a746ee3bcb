// The threads of a block on a GPU: what mnemosyne_block.h and flt_block.h are written over.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace mnemosyne::kernels::cuda {

// Memory that one thread writes and another reads after a ForEach must not come from a __restrict__
// pointer: the compiler takes the barrier to leave such memory alone.
struct BlockThreads {
  template <typename F>
  static __device__ __forceinline__ void ForEach(size_t count, const F& f) {
    for (size_t i = threadIdx.x; i < count; i += blockDim.x) f(i);
    __syncthreads();
  }

  // Adds to a number that all blocks share.
  static __device__ __forceinline__ void Add(uint32_t* to, uint32_t n) { atomicAdd(to, n); }
};

}  // namespace mnemosyne::kernels::cuda
