// The arithmetic of half_state.h in the lanes of `W`: see warp_functions.h. Results have its bits.
#pragma once

#include <stdint.h>

#include "kernels/cuda/device_functions.h"
#include "kernels/half_state.h"

namespace mnemosyne::kernels::cuda {

template <class W>
struct HalfLanes {
  using F = typename W::Floats;
  using I = typename W::Ints;
  using U = typename W::Words;

  // Of a position that is a multiple of four, and the three behind it.
  static MNEMOSYNE_DEVICE U RandomMix(uint32_t key, U position) {
    U x = U(key) + (position >> 2) * U(0x9E3779B9U);
    x = (x ^ (x >> 16)) * U(0x7FEB352DU);
    x = (x ^ (x >> 15)) * U(0x846CA68BU);
    return x ^ (x >> 16);
  }
  static MNEMOSYNE_DEVICE void RandomBits(uint32_t key, U position, U (&random)[4]) {
    random[0] = RandomMix(key, position);
    random[1] = random[0] * U(kRandomFactor1);
    random[2] = random[0] * U(kRandomFactor2);
    random[3] = random[0] * U(kRandomFactor3);
  }
  static MNEMOSYNE_DEVICE void RandomHalves(uint32_t key, U position, U (&random)[4]) {
    random[0] = RandomMix(key, position);
    random[1] = random[0] >> 16;
    random[2] = random[0] * U(kRandomFactor1);
    random[3] = random[2] >> 16;
  }

  static MNEMOSYNE_DEVICE F RoundToBrain(F x, U random) {
    return W::FromBits((W::Bits(x) + (random & U(0xFFFFU))) & U(0xFFFF0000U));
  }
  static MNEMOSYNE_DEVICE U PackBrain(F x) { return W::Bits(x) >> 16; }
  static MNEMOSYNE_DEVICE F UnpackBrain(U x) { return W::FromBits(x * U(0x10000U)); }

  // From the greatest square, 0 or more.
  static MNEMOSYNE_DEVICE F InverseRootScale(F square_max) {
    const I root = (W::ToInts(W::Bits(square_max) >> 23) - I(127)) >> 1;
    const F scale = W::FromBits(W::ToWords(I(127 + kHalfExponentMax) - root) * U(1U << 23));
    return W::Select(F(0.0F) < square_max, scale, F(1.0F));
  }

  static MNEMOSYNE_DEVICE U PackHalf(F root, U random) {
    return (W::Bits(root * F(kHalfBias)) + (random >> 19)) >> 13;
  }
  // `scale` is one over that of PackHalf.
  static MNEMOSYNE_DEVICE F UnpackRoot(U root, F scale) {
    return W::FromBits(root * U(1U << 13)) * F(kHalfBiasInverse) * scale;
  }
};

}  // namespace mnemosyne::kernels::cuda
