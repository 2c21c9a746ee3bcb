// Fragments of the quick program: words in registers for products of 16 bits, read from shared
// memory by rows. Written in the lanes of `W`; see warp_functions.h.
#pragma once

#include <stdint.h>

#include "kernels/cuda/flt_fragments.h"

namespace mnemosyne::kernels::cuda {

template <class W>
struct FltQuickFragments {
  using F = typename W::Floats;
  using I = typename W::Ints;
  using U = typename W::Words;

  // c += a b.
  template <bool kHalf>
  static MNEMOSYNE_DEVICE void Mma(F (&c)[4], const U (&a)[4], const U (&b)[2]) {
    if constexpr (kHalf) {
      W::MmaHalf(c, a, b);
    } else {
      W::MmaBrain(c, a, b);
    }
  }

  // The right sides of two products in a row: columns of the products are 8 rows of memory, and
  // what is summed over are 32 numbers of 16 bits from `word` on.
  struct Pair {
    U first[2], second[2];

    MNEMOSYNE_DEVICE void Load(const uint32_t* from, uint32_t stride, uint32_t row, uint32_t word) {
      I at;
      W::Each([&](auto here) {
        const auto lane = static_cast<uint32_t>(here.lane);
        here(at) = static_cast<int>((row + lane % 8) * stride + word + lane / 8 * 4);
      });
      U x[4];
      W::LoadMatrices(x, from, at);
      Take(x);
    }
    // The same where what is summed over are 32 rows, and the columns are 8 numbers of 16 bits.
    MNEMOSYNE_DEVICE void LoadDown(const uint32_t* from, uint32_t stride, uint32_t row,
                                   uint32_t word) {
      I at;
      W::Each([&](auto here) {
        here(at) = static_cast<int>((row + static_cast<uint32_t>(here.lane)) * stride + word);
      });
      U x[4];
      W::LoadTransposed(x, from, at);
      Take(x);
    }

   private:
    MNEMOSYNE_DEVICE void Take(const U (&x)[4]) {
      first[0] = x[0];
      first[1] = x[1];
      second[0] = x[2];
      second[1] = x[3];
    }
  };

  // The left side of a product: 16 rows of memory, of each 16 numbers of 16 bits from `word` on.
  static MNEMOSYNE_DEVICE void LoadLeft(U (&a)[4], const uint32_t* from, uint32_t stride,
                                        uint32_t row, uint32_t word) {
    I at;
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      here(at) = static_cast<int>((row + lane % 16) * stride + word + lane / 16 * 4);
    });
    W::LoadMatrices(a, from, at);
  }

  // c += the product of two numbers in parts of bfloat16, small products first.
  template <int kLeft, int kRight>
  static MNEMOSYNE_DEVICE void MultiplyParts(F (&c)[4], const U (&a)[kLeft][4],
                                             const U (&b)[kRight][2]) {
    constexpr int kSum = (kLeft > kRight ? kLeft : kRight) - 1;
    MNEMOSYNE_UNROLL_ALL
    for (int sum = kSum; sum >= 0; --sum) {
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < kLeft; ++i) {
        if (i <= sum && sum - i < kRight) W::MmaBrain(c, a[i], b[sum - i]);
      }
    }
  }
};

}  // namespace mnemosyne::kernels::cuda
