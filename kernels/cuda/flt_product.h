// Products of matrices of float32 by the warps of a block, on the units for tf32: a number is the
// sum of two of 11 bits, and of the four products of such parts the three that count are added up.
// Matrices are functions of their indices, so that they can lie anywhere, and either way round.
//
// Written over the threads of `T`, of which T::ForEachWarp(count, f) calls f(i) for all i below
// `count`, spread over the T::Warps() warps, and returns when all have returned; and over the lanes
// of `W`.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/device_functions.h"
#include "kernels/cuda/flt_numbers.h"

namespace mnemosyne::kernels::cuda {

// A side of a product as a matrix in memory: At(j) is row j of the left side, or column j of the
// right one, whose terms are neighbours; or `stride` apart.
struct FltAlong {
  const float* data;
  uint32_t stride;  // From row to row, or from column to column.

  struct Line {
    const float* data;
    MNEMOSYNE_DEVICE float operator()(int i) const { return data[i]; }
  };
  MNEMOSYNE_DEVICE Line At(uint32_t j) const { return {data + size_t{j} * stride}; }
};
struct FltDown {
  const float* data;
  uint32_t stride;  // From term to term.

  struct Line {
    const float* data;
    int stride;
    MNEMOSYNE_DEVICE float operator()(int i) const { return data[i * stride]; }
  };
  MNEMOSYNE_DEVICE Line At(uint32_t j) const { return {data + j, static_cast<int>(stride)}; }
};

// A left side as a function of row and term, and a right side as one of term and column.
template <typename A>
struct FltLeft {
  const A& of;

  struct Line {
    const A& of;
    uint32_t row;
    MNEMOSYNE_DEVICE float operator()(int i) const { return of(row, static_cast<uint32_t>(i)); }
  };
  MNEMOSYNE_DEVICE Line At(uint32_t row) const { return {of, row}; }
};
template <typename B>
struct FltRight {
  const B& of;

  struct Line {
    const B& of;
    uint32_t column;
    MNEMOSYNE_DEVICE float operator()(int i) const { return of(static_cast<uint32_t>(i), column); }
  };
  MNEMOSYNE_DEVICE Line At(uint32_t column) const { return {of, column}; }
};

template <typename X>
inline constexpr bool kIsFltMatrix = false;
template <>
inline constexpr bool kIsFltMatrix<FltAlong> = true;
template <>
inline constexpr bool kIsFltMatrix<FltDown> = true;
template <typename X>
inline constexpr bool kIsFltMatrix<FltLeft<X>> = true;
template <typename X>
inline constexpr bool kIsFltMatrix<FltRight<X>> = true;

// Of the part of a product that a warp forms, kDown by 2 fragments of 16 by 8.
template <class T, class W, uint32_t kDown>
class FltProductPart {
  using F = typename W::Floats;

 public:
  template <typename A, typename B, typename Store>
  static MNEMOSYNE_DEVICE void Run(uint32_t rows, uint32_t columns, uint32_t inner, const A& a,
                                   const B& b, const Store& store) {
    const uint32_t down = (rows + kRows - 1) / kRows, along = (columns + kColumns - 1) / kColumns;
    T::ForEachWarp(down * along, [&](uint32_t tile) {
      const uint32_t row0 = tile / along * kRows, column0 = tile % along * kColumns;
      F sums[kDown][kAlong][4];
      Clear(sums);
      const int terms = static_cast<int>(inner);
      int first = 0;
      for (; first + kInner <= terms; first += kInner) {
        Add<true>(rows, columns, terms, row0, column0, first, a, b, sums);
      }
      if (first < terms) Add<false>(rows, columns, terms, row0, column0, first, a, b, sums);
      W::Each([&](auto here) {
        const auto lane = static_cast<uint32_t>(here.lane);
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t d = 0; d < kDown; ++d) {
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t l = 0; l < kAlong; ++l) {
            MNEMOSYNE_UNROLL_ALL
            for (uint32_t k = 0; k < 4; ++k) {
              const uint32_t row = row0 + 16 * d + 8 * (k / 2) + lane / 4,
                             column = column0 + 8 * l + 2 * (lane % 4) + k % 2;
              if (row < rows && column < columns) store(row, column, here(sums[d][l][k]));
            }
          }
        }
      });
    });
  }

 private:
  static constexpr uint32_t kAlong = 2;
  static constexpr uint32_t kRows = 16 * kDown, kColumns = 8 * kAlong;
  // Terms that the units add up: they round sums toward zero, and those to nearest.
  static constexpr int kInner = 16;

  static MNEMOSYNE_DEVICE void Clear(F (&sums)[kDown][kAlong][4]) {
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t d = 0; d < kDown; ++d) {
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t l = 0; l < kAlong; ++l) {
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t k = 0; k < 4; ++k) sums[d][l][k] = F(0.0F);
      }
    }
  }

  static MNEMOSYNE_DEVICE void Split(float x, float* high, float* low) {
    *high = FloatOf((BitsOf(x) + 0x1000U) & 0xFFFFE000U);
    *low = x - *high;
  }

  // Adds the terms from `first` on; with kWhole there are kInner of them.
  template <bool kWhole, typename A, typename B>
  static MNEMOSYNE_DEVICE void Add(uint32_t rows, uint32_t columns, int inner, uint32_t row0,
                                   uint32_t column0, int first, const A& a, const B& b,
                                   F (&sums)[kDown][kAlong][4]) {
    F products[kDown][kAlong][4];
    Clear(products);
    MNEMOSYNE_UNROLL_ALL
    for (int half = 0; half < kInner; half += 8) {
      F left[2][kDown][4], right[2][kAlong][2];
      W::Each([&](auto here) {
        const auto lane = static_cast<uint32_t>(here.lane);
        const uint32_t group = lane / 4;
        const int term = first + half + here.lane % 4;
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t k = 0; k < 4; ++k) {
          const int i = term + 4 * static_cast<int>(k / 2);
          const bool there = kWhole || i < inner;
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t d = 0; d < kDown; ++d) {
            const uint32_t row = row0 + 16 * d + 8 * (k % 2) + group;
            const float x = there ? a.At(row < rows ? row : row0)(i) : 0.0F;
            Split(x, &here(left[0][d][k]), &here(left[1][d][k]));
          }
        }
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t k = 0; k < 2; ++k) {
          const int i = term + 4 * static_cast<int>(k);
          const bool there = kWhole || i < inner;
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t l = 0; l < kAlong; ++l) {
            const uint32_t column = column0 + 8 * l + group;
            const float x = there ? b.At(column < columns ? column : column0)(i) : 0.0F;
            Split(x, &here(right[0][l][k]), &here(right[1][l][k]));
          }
        }
      });
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t which = 0; which < 3; ++which) {  // The small products first.
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t d = 0; d < kDown; ++d) {
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t l = 0; l < kAlong; ++l) {
            W::MmaSplit(products[d][l], left[which == 0 ? 1 : 0][d], right[which == 1 ? 1 : 0][l]);
          }
        }
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t d = 0; d < kDown; ++d) {
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t l = 0; l < kAlong; ++l) {
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t k = 0; k < 4; ++k) sums[d][l][k] = sums[d][l][k] + products[d][l][k];
      }
    }
  }
};

template <class T, class W>
class FltProduct {
 public:
  // Calls store(row, column, sum over i below `inner` of a(row, i) b(i, column)) for all of `rows`
  // times `columns`. Sides are functions, or matrices.
  template <typename A, typename B, typename Store>
  static MNEMOSYNE_DEVICE void Run(uint32_t rows, uint32_t columns, uint32_t inner, const A& a,
                                   const B& b, const Store& store) {
    if constexpr (!kIsFltMatrix<A>) {
      Run(rows, columns, inner, FltLeft<A>{a}, b, store);
    } else if constexpr (!kIsFltMatrix<B>) {
      Run(rows, columns, inner, a, FltRight<B>{b}, store);
    } else {
      RunMatrices(rows, columns, inner, a, b, store);
    }
  }

 private:
  template <typename A, typename B, typename Store>
  static MNEMOSYNE_DEVICE void RunMatrices(uint32_t rows, uint32_t columns, uint32_t inner,
                                           const A& a, const B& b, const Store& store) {
    // A warp forms a larger part where there are enough of them.
    const uint32_t along = (columns + 15) / 16;
    if ((rows + 31) / 32 * along >= T::Warps()) {
      FltProductPart<T, W, 2>::Run(rows, columns, inner, a, b, store);
    } else {
      FltProductPart<T, W, 1>::Run(rows, columns, inner, a, b, store);
    }
  }
};

}  // namespace mnemosyne::kernels::cuda
