// A state of 16 bits a number: bfloat16 of a memory of either sign, and of a memory of squares the
// float16 of its root over a power of two that a chunk has in common. Rounding is stochastic, so
// that changes far below a number's last bit add up; the same numbers give the same bits. Plain
// functions for files that include no C++ library.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/anywhere.h"

namespace mnemosyne::kernels {

// Random bits come from a counter: the same key and position give the same bits on every device.
// Reference: Wellons, "Prospecting for Hash Functions", 2018, lowbias32.
MNEMOSYNE_ANYWHERE static inline uint32_t MixBits(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352DU;
  x = (x ^ (x >> 15)) * 0x846CA68BU;
  return x ^ (x >> 16);
}

// The key of a slot of a parameter at one of its steps.
MNEMOSYNE_ANYWHERE static inline uint32_t RoundingKey(uint32_t parameter, uint64_t clock,
                                                      uint32_t slot) {
  uint32_t key = MixBits(static_cast<uint32_t>(clock) ^ 0x9E3779B9U);
  key = MixBits(key ^ static_cast<uint32_t>(clock >> 32) ^ (slot << 28));
  return MixBits(key ^ parameter);
}

// Four positions in a row share a mix, which each multiplies by an odd number of its own.
inline constexpr uint32_t kRandomFactor1 = 0xB5297A4DU;
inline constexpr uint32_t kRandomFactor2 = 0x68E31DA5U;
inline constexpr uint32_t kRandomFactor3 = 0x1B56C4E9U;
MNEMOSYNE_ANYWHERE static inline uint32_t RandomMix(uint32_t key, uint32_t position) {
  return MixBits(key + (position >> 2) * 0x9E3779B9U);
}
MNEMOSYNE_ANYWHERE static inline uint32_t RandomBits(uint32_t key, uint32_t position) {
  const uint32_t factor = (position & 2) != 0
                              ? ((position & 1) != 0 ? kRandomFactor3 : kRandomFactor2)
                              : ((position & 1) != 0 ? kRandomFactor1 : 1U);
  return RandomMix(key, position) * factor;
}

// The same for who needs 16 bits of them, the lowest: two positions in a row share a product.
MNEMOSYNE_ANYWHERE static inline uint32_t RandomHalf(uint32_t key, uint32_t position) {
  const uint32_t factor = (position & 2) != 0 ? kRandomFactor1 : 1U;
  return RandomMix(key, position) * factor >> (position & 1) * 16;
}

// Finite x to one of the two nearest numbers of bfloat16, by the lowest 16 bits of `random`.
MNEMOSYNE_ANYWHERE static inline float RoundToBrain(float x, uint32_t random) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x) + (random & 0xFFFFU);
  return __builtin_bit_cast(float, bits & 0xFFFF0000U);
}

MNEMOSYNE_ANYWHERE static inline uint16_t PackBrain(float x) {
  return static_cast<uint16_t>(__builtin_bit_cast(uint32_t, x) >> 16);
}
MNEMOSYNE_ANYWHERE static inline float UnpackBrain(uint16_t x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16);
}

// Float16 without its sign has float32's exponent, 112 less, and 13 bits less behind the point.
inline constexpr float kHalfBias = 0x1p-112F;
inline constexpr float kHalfBiasInverse = 0x1p112F;
inline constexpr int32_t kHalfExponentMax = 14;  // Of the largest root of a chunk.

// 2^-e for the power of two 2^e by which the roots of a chunk are divided: from the largest square.
MNEMOSYNE_ANYWHERE static inline float InverseRootScale(float square_max) {
  if (!(square_max > 0)) return 1;
  const uint32_t bits = __builtin_bit_cast(uint32_t, square_max);
  // Half the exponent, rounded down; that of a denormal number is far below any root of float16.
  const int32_t root = (static_cast<int32_t>(bits >> 23) - 127) >> 1;
  return __builtin_bit_cast(float, static_cast<uint32_t>(127 + kHalfExponentMax - root) << 23);
}

// A root over its scale, at least 0 and below 2^15, to one of the two nearest numbers of float16,
// by the highest 13 bits of `random`: the lowest are free for another number.
MNEMOSYNE_ANYWHERE static inline uint16_t PackHalf(float root, uint32_t random) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, root * kHalfBias) + (random >> 19);
  return static_cast<uint16_t>(bits >> 13);
}
MNEMOSYNE_ANYWHERE static inline float UnpackHalf(uint16_t x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 13) * kHalfBiasInverse;
}

// The square that a root means, given the inverse of its scale.
MNEMOSYNE_ANYWHERE static inline float UnpackSquare(uint16_t root, float inverse_scale) {
  const float x = UnpackHalf(root) / inverse_scale;
  return x * x;
}

// How a chunk's memories are rounded in a step; null where they have 32 bits.
struct MnemosyneRounding {
  uint32_t key;          // Of r1 and the root, by RandomBits().
  uint32_t slow_key;     // Of r2, by RandomHalf().
  uint32_t first;        // Position of the chunk's first coordinate in its parameter.
  uint16_t* fast;        // [count]: r1
  uint16_t* slow;        // [count]: r2
  uint16_t* roots;       // [count]: of s.
  float* inverse_scale;  // Of the roots; 0 before the first step.
};

}  // namespace mnemosyne::kernels
