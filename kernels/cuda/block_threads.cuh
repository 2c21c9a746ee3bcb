// The threads of a block on a GPU: what mnemosyne_block.h is written over.
#pragma once

#include <stddef.h>

namespace mnemosyne::kernels::cuda {

struct BlockThreads {
  template <typename F>
  static __device__ __forceinline__ void ForEach(size_t count, const F& f) {
    for (size_t i = threadIdx.x; i < count; i += blockDim.x) f(i);
    __syncthreads();
  }
};

}  // namespace mnemosyne::kernels::cuda
