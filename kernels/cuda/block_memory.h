// The memories of a chunk as a thread of a block reads and writes them, a number at a time: in 32
// bits, or in 16; for mnemosyne_block.h.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/device_functions.h"
#include "kernels/mnemosyne_sizes.h"

namespace mnemosyne::kernels::cuda {

// r1, s and r2 in 32 bits. Put...() stores a number and returns it as it is stored.
class BlockFloats {
 public:
  static constexpr bool kRounds = false;

  MNEMOSYNE_DEVICE explicit BlockFloats(const MnemosyneChunkStep& at) : at_(at) {}

  MNEMOSYNE_DEVICE float Fast(size_t i) const { return at_.fast[i]; }
  MNEMOSYNE_DEVICE float Square(size_t i) const { return at_.square[i]; }
  MNEMOSYNE_DEVICE float Slow(size_t i) const { return at_.slow[i]; }
  MNEMOSYNE_DEVICE float PutFast(size_t i, float x) const { return at_.fast[i] = x; }
  MNEMOSYNE_DEVICE float PutSquare(size_t i, float x, float) const { return at_.square[i] = x; }
  MNEMOSYNE_DEVICE float PutSlow(size_t i, float x) const { return at_.slow[i] = x; }
  MNEMOSYNE_DEVICE void SetInverseScale(float) {}
  MNEMOSYNE_DEVICE void KeepInverseScale(float) const {}

 private:
  const MnemosyneChunkStep& at_;
};

// The same in 16 bits: see half_state.h. The roots of s have a scale in common.
class BlockHalves {
 public:
  static constexpr bool kRounds = true;

  MNEMOSYNE_DEVICE explicit BlockHalves(const MnemosyneChunkStep& at) : at_(*at.rounding) {
    const float inverse = *at_.inverse_scale;
    inverse_scale_ = inverse > 0 ? inverse : 1.0F;
  }

  MNEMOSYNE_DEVICE float Fast(size_t i) const { return UnpackBrain(at_.fast[i]); }
  MNEMOSYNE_DEVICE float Square(size_t i) const {
    return UnpackSquare(at_.roots[i], inverse_scale_);
  }
  MNEMOSYNE_DEVICE float Slow(size_t i) const { return UnpackBrain(at_.slow[i]); }
  MNEMOSYNE_DEVICE float PutFast(size_t i, float x) const {
    return PutBrain(at_.fast, i, x, RandomBits(at_.key, Position(i)));
  }
  MNEMOSYNE_DEVICE float PutSlow(size_t i, float x) const {
    return PutBrain(at_.slow, i, x, RandomHalf(at_.slow_key, Position(i)));
  }
  // In another scale than Square() reads.
  MNEMOSYNE_DEVICE float PutSquare(size_t i, float x, float inverse_scale) const {
    at_.roots[i] = PackHalf(sqrtf(x) * inverse_scale, RandomBits(at_.key, Position(i)));
    return UnpackSquare(at_.roots[i], inverse_scale);
  }
  // Of squares from here on.
  MNEMOSYNE_DEVICE void SetInverseScale(float inverse_scale) { inverse_scale_ = inverse_scale; }
  MNEMOSYNE_DEVICE void KeepInverseScale(float inverse_scale) const {
    *at_.inverse_scale = inverse_scale;
  }

 private:
  MNEMOSYNE_DEVICE uint32_t Position(size_t i) const {
    return at_.first + static_cast<uint32_t>(i);
  }
  static MNEMOSYNE_DEVICE float PutBrain(uint16_t* to, size_t i, float x, uint32_t random) {
    const float rounded = RoundToBrain(x, random);
    to[i] = PackBrain(rounded);
    return rounded;
  }

  const MnemosyneRounding& at_;
  float inverse_scale_;
};

}  // namespace mnemosyne::kernels::cuda
