// A team of the quick program of FLT attention on a GPU: see flt_quick_keys.h.
#pragma once

#include <stdint.h>

namespace mnemosyne::kernels::cuda {

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
