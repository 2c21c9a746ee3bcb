// Which problems the quick program of FLT attention gives to groups of four warps, whose products
// read matrices of shared memory by themselves: those of bfloat16 tensors, of up to 64 features,
// where a device has such products.
//
// Matrices are tiles of 64 rows of 64 numbers of 16 bits: 128 bytes a row, in which chunks of 16
// bytes have changed places by the row, as these products expect it.
#pragma once

#include <stdint.h>

#include "kernels/cuda/flt_quick_layout.h"

// Before a loop that is to stay one: what is rarely done shall not take room of instructions.
#ifdef __CUDACC__
#define MNEMOSYNE_ROLLED _Pragma("unroll 1")
#else
#define MNEMOSYNE_ROLLED
#endif

namespace mnemosyne::kernels::cuda {

inline constexpr uint32_t kFltGroupRowWords = 32;

template <FltType kNumbers>
struct FltGroupSizes : FltQuickSizes<kNumbers, 64, 64> {
  using Base = FltQuickSizes<kNumbers, 64, 64>;
  static constexpr uint32_t kTileWords = Base::kRows * kFltGroupRowWords;
  // Of a tile of rows as they are given: bfloat16 ones are a matrix as they are, float32 ones are
  // split into parts, of which each is one.
  static constexpr uint32_t kRawWords =
      Base::kFull ? Base::kRows * static_cast<uint32_t>(Base::kRawStride) : kTileWords;
  // Of waves, see FltTileWaves: angles and the position in the middle of two tiles, radians of a
  // step, and the greatest frequency.
  static constexpr uint32_t kSlotWords = Base::kWaves + 4;
  static constexpr uint32_t kBaseWords = 2 * kSlotWords + Base::kWaves + 4;
};

// Where a word of a row of a tile is.
MNEMOSYNE_ANYWHERE inline constexpr uint32_t FltGroupWord(uint32_t row, uint32_t word) {
  return row * kFltGroupRowWords + (word ^ (row % 8 * 4));
}

// Where a chunk of 16 bytes of a row as it is given is.
template <class Sizes>
MNEMOSYNE_ANYWHERE constexpr uint32_t FltGroupChunk(uint32_t row, uint32_t chunk) {
  if constexpr (Sizes::kFull) return row * static_cast<uint32_t>(Sizes::kRawStride) + 4 * chunk;
  return FltGroupWord(row, 4 * chunk);
}

// Calls run(sizes), and returns true, if groups take the sums over the keys of a call, and its
// answers.
template <typename Run>
bool WithFltGroup(const FltCall& call, const Run& run) {
  const FltShape& shape = call.shape;
  if (shape.features > 64 || (shape.waves > 0 && shape.positions > 1)) return false;
  if (call.arrays.type == FltType::kBFloat16) {
    return WithFltQuick(call, [&](auto) { run(FltGroupSizes<FltType::kBFloat16>()); });
  }
  if (call.arrays.type == FltType::kFloat32 && !call.arrays.causal) {
    return WithFltQuick(call, [&](auto) { run(FltGroupSizes<FltType::kFloat32>()); });
  }
  return false;
}

}  // namespace mnemosyne::kernels::cuda
