// Teams and launches of the quick program of FLT attention on a GPU: see flt_quick_keys.h.
#pragma once

#include <stdint.h>

#include "kernels/cuda/block_threads.cuh"

namespace mnemosyne::kernels::cuda {

// A block that may start before the kernel that it goes on from has ended; see LaunchAhead.
struct EarlyThreads : BlockThreads {
  // Until all that was launched before is done.
  static __device__ __forceinline__ void WaitForOthers() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
  }
};

// Lets the next kernel start, if it is one that waits.
__device__ __forceinline__ void LetOthersStart() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Launches a kernel that waits by itself for those before it.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchAhead(void (*kernel)(Parameters...), unsigned blocks, unsigned threads,
                        size_t bytes, cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// The warp of a thread, in the place of all.
template <class Warp>
class QuickTeamOnDevice {
 public:
  template <class Space>
  __device__ explicit QuickTeamOnDevice(const Space& space) : warp_(space, threadIdx.x / 32) {}

  template <typename F>
  __device__ __forceinline__ void Run(const F& f) {
    f(warp_);
  }
  template <typename F>
  __device__ __forceinline__ void Each(const F& f) {
    f(warp_);
    __syncthreads();
  }

 private:
  Warp warp_;
};

}  // namespace mnemosyne::kernels::cuda
