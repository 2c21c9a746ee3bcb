// Products of matrices of float32 on the units for bfloat16: a number is the sum of `kParts`
// numbers of 8 bits, and products of parts are added up, the small ones first. Two parts keep 16
// bits, three keep all 24.
//
// Matrices lie in memory as words of two neighbours of a row, the first in the lower half, one
// matrix a part. Written in the lanes of `W`; see warp_functions.h.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels/cuda/device_functions.h"
#include "kernels/cuda/flt_numbers.h"

namespace mnemosyne::kernels::cuda {

// Two numbers as bfloat16, `low` in the lower half.
MNEMOSYNE_DEVICE uint32_t PackBFloat16(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  return static_cast<uint32_t>(ToBFloat16(low)) | static_cast<uint32_t>(ToBFloat16(high)) << 16U;
#endif
}

// The parts of two numbers.
template <int kParts>
struct FltPair {
  uint32_t part[kParts];

  MNEMOSYNE_DEVICE FltPair(float low, float high) {
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < kParts; ++k) {
      part[k] = PackBFloat16(low, high);
      low -= FloatOf(part[k] << 16U);
      high -= FloatOf(part[k] & 0xFFFF0000U);
    }
  }
};

// Two numbers as float16, `low` in the lower half; what is beyond becomes infinite.
MNEMOSYNE_DEVICE uint32_t PackFloat16(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  return static_cast<uint32_t>(ToFloat16(low)) | static_cast<uint32_t>(ToFloat16(high)) << 16U;
#endif
}
MNEMOSYNE_DEVICE void UnpackFloat16(uint32_t word, float* low, float* high) {
#ifdef __CUDA_ARCH__
  asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}"
      : "=f"(*low), "=f"(*high)
      : "r"(word));
#else
  *low = FromFloat16(static_cast<uint16_t>(word));
  *high = FromFloat16(static_cast<uint16_t>(word >> 16U));
#endif
}

// Two numbers as the sums of two of float16, which keep 22 bits of numbers about 1.
struct FltHalfPair {
  uint32_t part[2];

  MNEMOSYNE_DEVICE FltHalfPair(float low, float high) {
    part[0] = PackFloat16(low, high);
    float near_low, near_high;
    UnpackFloat16(part[0], &near_low, &near_high);
    part[1] = PackFloat16(low - near_low, high - near_high);
  }
};

// Rows of words; row strides of 4 more than a multiple of 8 let the lanes of a fragment read from
// different banks.
struct FltWords {
  uint32_t* data;
  uint32_t stride;       // Words of a row.
  uint32_t part_stride;  // Words of a part.

  // Columns 2 pair and 2 pair + 1.
  template <int kParts>
  MNEMOSYNE_DEVICE void Store(uint32_t row, uint32_t pair, float low, float high) const {
    const FltPair<kParts> split(low, high);
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < kParts; ++k) {
      data[static_cast<uint32_t>(k) * part_stride + row * stride + pair] = split.part[k];
    }
  }

  // One number, next to another one of the same word.
  template <int kParts>
  MNEMOSYNE_DEVICE void StoreOne(uint32_t row, uint32_t column, float x) const {
    const FltPair<kParts> split(x, 0);
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < kParts; ++k) {
      uint32_t* const word =
          data + static_cast<uint32_t>(k) * part_stride + row * stride + column / 2;
      const auto half = static_cast<uint16_t>(split.part[k]);
#ifdef __CUDA_ARCH__
      reinterpret_cast<uint16_t*>(word)[column % 2] = half;
#else
      memcpy(reinterpret_cast<char*>(word) + column % 2 * sizeof(half), &half, sizeof(half));
#endif
    }
  }
};

template <class W, int kParts>
struct FltFragments {
  using F = typename W::Floats;
  using U = typename W::Words;

  // Of 16 rows and 16 columns.
  struct A {
    U part[kParts][4];

    // From 16 rows of a matrix.
    static MNEMOSYNE_DEVICE A Load(const FltWords& from, uint32_t row, uint32_t pair) {
      A a;
      W::Each([&](auto here) {
        const auto lane = static_cast<uint32_t>(here.lane);
        const uint32_t* const at = from.data + (row + lane / 4) * from.stride + pair + lane % 4;
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < kParts; ++k) {
          const uint32_t* const own = at + static_cast<uint32_t>(k) * from.part_stride;
          here(a.part[k][0]) = own[0];
          here(a.part[k][1]) = own[8 * from.stride];
          here(a.part[k][2]) = own[4];
          here(a.part[k][3]) = own[8 * from.stride + 4];
        }
      });
      return a;
    }

    // From results, those of columns 0 to 7 and of columns 8 to 15.
    static MNEMOSYNE_DEVICE A From(const F (&left)[4], const F (&right)[4]) {
      A a;
      W::Each([&](auto here) {
        const FltPair<kParts> pairs[4] = {{here(left[0]), here(left[1])},
                                          {here(left[2]), here(left[3])},
                                          {here(right[0]), here(right[1])},
                                          {here(right[2]), here(right[3])}};
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < kParts; ++k) {
          MNEMOSYNE_UNROLL_ALL
          for (int i = 0; i < 4; ++i) here(a.part[k][i]) = pairs[i].part[k];
        }
      });
      return a;
    }
  };

  // Of 16 rows and 8 columns, which are rows of the matrix that it is loaded from.
  struct B {
    U part[kParts][2];

    static MNEMOSYNE_DEVICE B Load(const FltWords& from, uint32_t row, uint32_t pair) {
      B b;
      W::Each([&](auto here) {
        const auto lane = static_cast<uint32_t>(here.lane);
        const uint32_t* const at = from.data + (row + lane / 4) * from.stride + pair + lane % 4;
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < kParts; ++k) {
          const uint32_t* const own = at + static_cast<uint32_t>(k) * from.part_stride;
          here(b.part[k][0]) = own[0];
          here(b.part[k][1]) = own[4];
        }
      });
      return b;
    }
  };

  // c += a b. Of lane 4 g + t, c has rows g and g + 8, of each columns 2 t and 2 t + 1. Units round
  // sums toward zero: few are formed there, and c is added to with rounding to nearest.
  static MNEMOSYNE_DEVICE void Multiply(const A& a, const B& b, F (&c)[4]) {
    F product[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
    MNEMOSYNE_UNROLL_ALL
    for (int sum = kParts - 1; sum >= 0; --sum) {
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < kParts; ++i) {
        if (i <= sum) W::Mma(product, a.part[i], b.part[sum - i]);
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < 4; ++k) c[k] = c[k] + product[k];
  }
};

}  // namespace mnemosyne::kernels::cuda
