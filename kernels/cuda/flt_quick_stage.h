// What a tile of keys and values becomes before the products of a team's warps take it: halves of
// squares, parts of numbers that are no operands as they are, and waves. Every warp stages some of
// the rows, and all warps read all of them.
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <math.h>
#include <stdint.h>

#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_block.h"
#include "kernels/cuda/flt_quick_rows.h"

namespace mnemosyne::kernels::cuda {

// Begins to copy the keys and values of a tile to `raw`, and its positions to `positions`; by all
// threads.
template <class T, class Sizes>
MNEMOSYNE_DEVICE void FetchFltKeys(const FltQuickSpace& space, uint32_t first, uint32_t rows,
                                   uint32_t raw, uint32_t positions) {
  using Rows = FltQuickRows<T, Sizes>;
  const FltShape& shape = space.call.shape;
  const Rows keys(space.call.arrays.k, space.part, shape.dim);
  const Rows values(space.call.arrays.v, space.part, shape.values);
  constexpr uint32_t kTile = Sizes::kRows * Sizes::kRawStride;
  T::Spread(Sizes::kRows * Rows::kChunks, [&](uint32_t i) {
    const uint32_t row = i / Rows::kChunks, chunk = i % Rows::kChunks;
    const bool valid = row < rows && space.Valid(first + row);
    uint32_t* const to = space.Words(raw) + row * Sizes::kRawStride + chunk * 4;
    keys.Fetch(first + row, chunk, valid, to);
    values.Fetch(first + row, chunk, valid, to + kTile);
  });
  if (shape.waves == 0) return;
  T::Spread(Sizes::kRows * shape.positions, [&](uint32_t i) {
    const uint32_t row = i / shape.positions, axis = i % shape.positions;
    if (row < rows) {
      T::Copy4(space.Words(positions) + row * 3 + axis, space.PositionOf(first + row) + axis);
    }
  });
}

// A warp's part of the staging, and where the staged rows of a slot lie.
template <class T, class W, class Sizes>
class FltQuickStage {
  using F = typename W::Floats;

 public:
  static constexpr uint32_t kRows = Sizes::kRows, kStride = Sizes::kStride;
  static constexpr uint32_t kRawStride = Sizes::kRawStride;
  static constexpr int kValueParts = Sizes::kValueParts;

  MNEMOSYNE_DEVICE FltQuickStage(const FltQuickSpace& space, uint32_t warp)
      : space_(space), warp_(warp) {}

  // Makes of the warp's rows of a tile what the products take: halves of squares, parts of numbers
  // that are no operands as they are, and waves.
  MNEMOSYNE_DEVICE void Stage(uint32_t first, uint32_t rows, uint32_t raw, uint32_t positions,
                              uint32_t slot) {
    slot_ = slot;
    StageNumbers(first, rows, raw);
    if (space_.call.shape.waves > 0) StageWaves(rows, positions);
  }

 protected:
  // Where keys and values lie for products.
  MNEMOSYNE_DEVICE const uint32_t* X(uint32_t raw) const {
    return Sizes::kRowParts > 1 ? StagedX() : space_.Words(raw);
  }
  MNEMOSYNE_DEVICE const uint32_t* Values(uint32_t raw) const {
    return kValueParts > 1 ? StagedValues() : space_.Words(raw + kRows * kRawStride);
  }
  // Of the slot.
  MNEMOSYNE_DEVICE uint32_t* StagedX() const {
    return space_.Words(space_.at.x + slot_ * FltQuickLayout::kXWords<Sizes>);
  }
  MNEMOSYNE_DEVICE uint32_t* StagedValues() const {
    return space_.Words(space_.at.values + slot_ * FltQuickLayout::kValueWords<Sizes>);
  }
  MNEMOSYNE_DEVICE uint32_t* Waves() const {
    return space_.Words(space_.at.waves + slot_ * FltQuickLayout::kWaveWords<Sizes>);
  }
  MNEMOSYNE_DEVICE float* Halves() const { return space_.Floats(space_.at.halves + slot_ * kRows); }
  MNEMOSYNE_DEVICE float* RowWeights() const {
    return space_.Floats(space_.at.row_weights + slot_ * kRows);
  }

  const FltQuickSpace& space_;
  const uint32_t warp_;
  uint32_t slot_ = 0;

 private:
  // What was measured of the rows before.
  MNEMOSYNE_DEVICE void StageRowNumbers(uint32_t first, uint32_t rows) const {
    constexpr uint32_t kWarpRows = kRows / Sizes::kWarps;
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      if (lane >= kWarpRows) return;
      const uint32_t row = warp_ * kWarpRows + lane;
      const FltRowNumber number =
          row < rows ? space_.NumberOf(space_.call.key_rows, first + row) : kFltNoRowNumber;
      Halves()[row] = number.base;
      RowWeights()[row] = number.weight;
    });
  }

  MNEMOSYNE_DEVICE void StageNumbers(uint32_t first, uint32_t rows, uint32_t raw) const {
    if constexpr (Sizes::kNumbered) {
      StageRowNumbers(first, rows);
    }
    if constexpr (!Sizes::kNumbered || Sizes::kRowParts > 1 || kValueParts > 1) {
      SplitNumbers(first, rows, raw);
    }
  }

  // Squares of numbers, and their parts.
  MNEMOSYNE_DEVICE void SplitNumbers(uint32_t first, uint32_t rows, uint32_t raw) const {
    constexpr uint32_t kWarpRows = kRows / Sizes::kWarps, kLanes = 32 / kWarpRows;
    F squares(0.0F);
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      const uint32_t row = warp_ * kWarpRows + lane / kLanes;
      const uint32_t* const keys = space_.Words(raw) + row * kRawStride;
      float square = 0;
      for (uint32_t chunk = lane % kLanes; chunk < 16; chunk += kLanes) {
        float x[4];
        ReadFour(keys, chunk, x);
        MNEMOSYNE_UNROLL_ALL
        for (int i = 0; i < 4; ++i) square = fmaf(x[i], x[i], square);
        if constexpr (Sizes::kRowParts > 1) {
          uint32_t* const to = StagedX() + row * kStride + 2 * chunk;
          const FltHalfPair low(x[0], x[1]), high(x[2], x[3]);
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t part = 0; part < 2; ++part) {
            to[part * kRows * kStride] = low.part[part];
            to[part * kRows * kStride + 1] = high.part[part];
          }
        }
        if constexpr (kValueParts > 1) {
          ReadFour(keys + kRows * kRawStride, chunk, x);
          uint32_t* const to = StagedValues() + row * kStride + 2 * chunk;
          const FltPair<kValueParts> low(x[0], x[1]), high(x[2], x[3]);
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t part = 0; part < kValueParts; ++part) {
            to[part * kRows * kStride] = low.part[part];
            to[part * kRows * kStride + 1] = high.part[part];
          }
        }
      }
      here(squares) = square;
    });
    if constexpr (!Sizes::kNumbered) StageHalves(first, rows, squares);
  }

  // Of rows whose lanes have parts of their squares.
  MNEMOSYNE_DEVICE void StageHalves(uint32_t first, uint32_t rows, F squares) const {
    constexpr uint32_t kWarpRows = kRows / Sizes::kWarps, kLanes = 32 / kWarpRows;
    const float scale = space_.call.weights.root_scale;
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 1; mask < static_cast<int>(kLanes); mask *= 2) {
      squares = squares + W::Exchange(squares, mask);
    }
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      if (lane % kLanes != 0) return;
      const uint32_t row = warp_ * kWarpRows + lane / kLanes;
      const bool valid = row < rows && space_.Valid(first + row);
      const float half = 0.5F * scale * scale * here(squares);
      if (!IsFinite(half)) T::Raise(space_.call.flag);
      Halves()[row] = valid ? half : kFltQuickNoRow;
    });
  }

  // Four numbers of a row as it was given.
  static MNEMOSYNE_DEVICE void ReadFour(const uint32_t* row, uint32_t chunk, float (&x)[4]) {
    if constexpr (Sizes::kFull) {
      struct alignas(16) Four {
        float x[4];
      };
      const Four four = *reinterpret_cast<const Four*>(row + 4 * chunk);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) x[i] = four.x[i];
    } else {
      struct alignas(8) Two {
        uint32_t x[2];
      };
      const Two two = *reinterpret_cast<const Two*>(row + 2 * chunk);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 2; ++i) {
        if constexpr (Sizes::kHalf) {
          UnpackFloat16(two.x[i], &x[2 * i], &x[2 * i + 1]);
        } else {
          x[2 * i] = FloatOf(two.x[i] << 16U);
          x[2 * i + 1] = FloatOf(two.x[i] & 0xFFFF0000U);
        }
      }
    }
  }

  // A lane takes two waves of every other row of the warp.
  MNEMOSYNE_DEVICE void StageWaves(uint32_t rows, uint32_t positions) const {
    constexpr uint32_t kWarpRows = kRows / Sizes::kWarps, kPart = kRows * kStride;
    const FltShape& shape = space_.call.shape;
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t i = 0; i < kWarpRows; i += 2) {
        const uint32_t row = warp_ * kWarpRows + i + lane / 16, wave = lane % 16 * 2;
        uint32_t* const to = Waves() + row * kStride + wave / 2;
        FltWavePair pair = {};
        if (row < rows) {
          const float* const at = space_.Floats(positions) + row * 3;
          if (lane % 16 < shape.positions && !(fabsf(at[lane % 16]) <= kFltPositionLimit)) {
            T::Raise(space_.call.flag);
          }
          pair = FltWavePair::At<Sizes>(shape, space_.Floats(space_.at.frequencies),
                                        space_.Floats(space_.at.origin), at, wave);
        }
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t part = 0; part < Sizes::kWaveParts; ++part) {
          to[part * kPart] = pair.cosines[part];
          to[part * kPart + Sizes::kWaves / 2] = pair.sines[part];
        }
      }
    });
  }
};

}  // namespace mnemosyne::kernels::cuda
