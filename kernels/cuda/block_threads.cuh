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

  // Calls f(row, column) for all of `rows` times `columns`: a warp takes a row, and neighbours take
  // neighbours.
  template <typename F>
  static __device__ __forceinline__ void ForRows(uint32_t rows, uint32_t columns, const F& f) {
    for (uint32_t row = threadIdx.x / 32; row < rows; row += blockDim.x / 32) {
      for (uint32_t column = threadIdx.x % 32; column < columns; column += 32) f(row, column);
    }
    __syncthreads();
  }

  static __device__ __forceinline__ uint32_t Warps() { return blockDim.x / 32; }

  // The same for warps, of which the block has no part.
  template <typename F>
  static __device__ __forceinline__ void ForEachWarp(uint32_t count, const F& f) {
    for (uint32_t i = threadIdx.x / 32; i < count; i += blockDim.x / 32) f(i);
    __syncthreads();
  }

  // The same, but returns before others have: for what a barrier of a team follows.
  template <typename F>
  static __device__ __forceinline__ void Spread(uint32_t count, const F& f) {
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) f(i);
  }

  // Begins to copy `size` bytes, 0 to 16, to 16 bytes of shared memory; the rest of them are 0.
  // Both are aligned to 16 bytes.
  static __device__ __forceinline__ void Copy16(uint32_t* to, const void* from, uint32_t size) {
    const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(size)
                 : "memory");
  }
  static __device__ __forceinline__ void Copy4(uint32_t* to, const void* from) {
    const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(place), "l"(from) : "memory");
  }
  // Until the thread's copies are done.
  static __device__ __forceinline__ void WaitForCopies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
  }

  // Says that something is wrong to whoever waits for the launch.
  static __device__ __forceinline__ void Raise(uint32_t* flag) {
    *reinterpret_cast<volatile uint32_t*>(flag) = 1;
  }

  // Adds to a number that all blocks share.
  static __device__ __forceinline__ void Add(uint32_t* to, uint32_t n) { atomicAdd(to, n); }
};

}  // namespace mnemosyne::kernels::cuda
