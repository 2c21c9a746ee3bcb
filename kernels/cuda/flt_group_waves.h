// Waves of the rows of a tile, along one axis. What is exact is done once for a tile and a wave:
// the angle at a row in its middle. Other rows add the angle of a small step, in float32. Rows that
// are far from the middle have exact angles of their own, and so have those of float32 tensors.
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <stdint.h>

#include "kernels/cuda/flt_group_sizes.h"
#include "kernels/cuda/flt_quick_rows.h"

namespace mnemosyne::kernels::cuda {

template <class T, class W, class Sizes>
class FltTileWaves {
  static constexpr uint32_t kWaves = Sizes::kWaves;
  // Turns of the step to a row that is not far.
  static constexpr float kNear = 16;
  static constexpr bool kExact = Sizes::kFull;  // All rows are as if they were far.

 public:
  MNEMOSYNE_DEVICE explicit FltTileWaves(const FltQuickSpace& space) : space_(space) {}

  // What does not depend on a tile, by one warp, after StageFltQuickWaves.
  MNEMOSYNE_DEVICE void Start() const {
    typename W::Floats most;
    W::Each([&](auto here) {
      const float xi = space_.Floats(space_.at.frequencies)[here.lane];
      Radians()[here.lane] = xi * kTurn;
      here(most) = fabsf(xi);
    });
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 1; mask < 32; mask *= 2) most = W::Max(most, W::Exchange(most, mask));
    W::Each([&](auto here) {
      if (here.lane == 0) Reach() = here(most);
    });
  }

  // The position in the middle of a tile of `rows` rows from `first` on, and the angles there, by
  // one warp.
  MNEMOSYNE_DEVICE float Middle(uint32_t first, uint32_t rows) const {
    return *space_.PositionOf(first + (rows > 32 ? 32 : rows / 2));
  }
  MNEMOSYNE_DEVICE void WriteBase(uint32_t slot, float middle) const {
    W::Each([&](auto here) {
      const auto wave = static_cast<uint32_t>(here.lane);
      Slot(slot)[wave] = kTurn * DropTurns(ExactTurns(middle, wave));
      if (wave == 0) Slot(slot)[kWaves] = middle;
    });
  }

  // Waves `wave` and `wave` + 1, and so on, at a position of the tile of a slot.
  template <int kPairs>
  MNEMOSYNE_DEVICE void PairsAt(uint32_t slot, float position, uint32_t wave,
                                FltWavePair (&pairs)[kPairs]) const {
    float angles[2 * kPairs];
    const float step = position - Slot(slot)[kWaves];
    if (!kExact && fabsf(step) * Reach() <= kNear) {
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t i = 0; i < 2 * kPairs; i += kEach<kPairs>) {
        using Numbers = Some<kEach<kPairs>>;
        const auto base = *reinterpret_cast<const Numbers*>(Slot(slot) + wave + i);
        const auto radians = *reinterpret_cast<const Numbers*>(Radians() + wave + i);
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t k = 0; k < kEach<kPairs>; ++k) {
          angles[i + k] = fmaf(radians.x[k], step, base.x[k]);
        }
      }
    } else {
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t i = 0; i < 2 * kPairs; ++i) {
        angles[i] = kTurn * DropTurns(ExactTurns(position, wave + i));
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t i = 0; i < kPairs; ++i) {
      float cosine[2], sine[2];
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < 2; ++k) {
        QuickCosineAndSineOf(angles[2 * i + k], &cosine[k], &sine[k]);
      }
      const FltHalfPair c(cosine[0], cosine[1]), s(sine[0], sine[1]);
      pairs[i] = {{c.part[0], c.part[1]}, {s.part[0], s.part[1]}};
    }
  }

 private:
  template <uint32_t kCount>
  struct alignas(4 * kCount) Some {
    float x[kCount];
  };
  template <int kPairs>
  static constexpr uint32_t kEach = kPairs > 1 ? 4 : 2;

  // xi r - xi origin, less whole turns but for a few: two terms a product.
  MNEMOSYNE_DEVICE float ExactTurns(float position, uint32_t wave) const {
    const float xi = space_.Floats(space_.at.frequencies)[wave];
#ifdef __CUDA_ARCH__
    const float product = __fmul_rn(xi, position);
#else
    const float product = xi * position;
#endif
    return (DropTurns(product) - space_.Floats(space_.at.origin)[wave]) +
           fmaf(xi, position, -product);
  }

  static constexpr float kTurn = 6.28318531F;

  MNEMOSYNE_DEVICE float* Slot(uint32_t slot) const {
    return space_.Floats(space_.at.bases + slot * Sizes::kSlotWords);
  }
  MNEMOSYNE_DEVICE float* Radians() const {
    return space_.Floats(space_.at.bases + 2 * Sizes::kSlotWords);
  }
  // The greatest frequency.
  MNEMOSYNE_DEVICE float& Reach() const { return Radians()[kWaves]; }

  const FltQuickSpace& space_;
};

}  // namespace mnemosyne::kernels::cuda
