// The lanes of four warps that multiply as a group, on a GPU that has wgmma; see flt_group_sizes.h.
#pragma once

#include <stdint.h>

#include "kernels/cuda/lanes.cuh"

namespace mnemosyne::kernels::cuda {

#define MNEMOSYNE_GROUP_SUMS                                                \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, "                                                    \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define MNEMOSYNE_GROUP_FOUR(x) "+f"((x)[0]), "+f"((x)[1]), "+f"((x)[2]), "+f"((x)[3])
#define MNEMOSYNE_GROUP_ALL(c)                                                                  \
  MNEMOSYNE_GROUP_FOUR((c)[0]), MNEMOSYNE_GROUP_FOUR((c)[1]), MNEMOSYNE_GROUP_FOUR((c)[2]),     \
      MNEMOSYNE_GROUP_FOUR((c)[3]), MNEMOSYNE_GROUP_FOUR((c)[4]), MNEMOSYNE_GROUP_FOUR((c)[5]), \
      MNEMOSYNE_GROUP_FOUR((c)[6]), MNEMOSYNE_GROUP_FOUR((c)[7])

struct GroupLanes : WarpLanes {
  // Before products that read registers, or sums that others than products have written.
  static __device__ __forceinline__ void GroupBegin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  }
  static __device__ __forceinline__ void GroupCommit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  }
  // Until all products are done, those of `c` among them.
  static __device__ __forceinline__ void GroupWait(Floats (&c)[8][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : MNEMOSYNE_GROUP_ALL(c)::"memory");
  }
  // Shows what the thread has written to shared memory to products after the next barrier.
  static __device__ __forceinline__ void GroupShow() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }

  // c = a b, or c += a b if `keep`, of the warp's 16 rows; c has 64 columns, and 16 numbers are
  // summed over. Of the tile `b` those are numbers from 16 step on of all rows, which are columns
  // of b; or, if kDown, rows from 16 step on. Numbers are bfloat16, or float16 if kHalf.
  template <bool kHalf, bool kDown>
  static __device__ __forceinline__ void GroupMultiply(Floats (&c)[8][4], const Words (&a)[4],
                                                       const uint32_t* b, int step, bool keep) {
    const uint32_t right = Describe(b, kDown ? 2048 * step : 32 * step);
    const int more = keep ? 1 : 0;
    if constexpr (kHalf) {
      asm volatile(
          "{.reg .pred p; .reg .b64 b; setp.ne.b32 p, %37, 0; mov.b64 "
          "b, {%36, 0x40000040};"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16."
          "f16 " MNEMOSYNE_GROUP_SUMS ", {%32, %33, %34, %35}, b, p, 1, 1, %38;}"
          : MNEMOSYNE_GROUP_ALL(c)
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(right), "r"(more), "n"(kDown ? 1 : 0));
    } else {
      asm volatile(
          "{.reg .pred p; .reg .b64 b; setp.ne.b32 p, %37, 0; mov.b64 "
          "b, {%36, 0x40000040};"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16."
          "bf16 " MNEMOSYNE_GROUP_SUMS ", {%32, %33, %34, %35}, b, p, 1, 1, %38;}"
          : MNEMOSYNE_GROUP_ALL(c)
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(right), "r"(more), "n"(kDown ? 1 : 0));
    }
  }

  // The same, where the rows of `a` are those of a tile, of which warp `warp` has 16.
  template <bool kHalf>
  static __device__ __forceinline__ void GroupMultiplyShared(Floats (&c)[8][4], const uint32_t* a,
                                                             const uint32_t* b, int step,
                                                             uint32_t /*warp*/, bool keep) {
    const uint32_t left = Describe(a, 32 * step), right = Describe(b, 32 * step);
    const int more = keep ? 1 : 0;
    if constexpr (kHalf) {
      asm volatile(
          "{.reg .pred p; .reg .b64 a, b; setp.ne.b32 p, %34, 0; "
          "mov.b64 a, {%32, 0x40000040};"
          "mov.b64 b, {%33, 0x40000040};"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16."
          "f16 " MNEMOSYNE_GROUP_SUMS ", a, b, p, 1, 1, 0, 0;}"
          : MNEMOSYNE_GROUP_ALL(c)
          : "r"(left), "r"(right), "r"(more));
    } else {
      asm volatile(
          "{.reg .pred p; .reg .b64 a, b; setp.ne.b32 p, %34, 0; "
          "mov.b64 a, {%32, 0x40000040};"
          "mov.b64 b, {%33, 0x40000040};"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16."
          "bf16 " MNEMOSYNE_GROUP_SUMS ", a, b, p, 1, 1, 0, 0;}"
          : MNEMOSYNE_GROUP_ALL(c)
          : "r"(left), "r"(right), "r"(more));
    }
  }

 private:
  // The lower half of a matrix descriptor; the upper one says that rows have 128 bytes with chunks
  // that have changed places, and groups of 8 of them are one after the other.
  static __device__ __forceinline__ uint32_t Describe(const uint32_t* tile, int bytes) {
    const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(tile));
    return ((place & 0x3FFFFU) >> 4) + (static_cast<uint32_t>(bytes) / 16 + (1U << 16));
  }
};

#undef MNEMOSYNE_GROUP_SUMS
#undef MNEMOSYNE_GROUP_FOUR
#undef MNEMOSYNE_GROUP_ALL

}  // namespace mnemosyne::kernels::cuda
