// Functions of a warp's numbers, written in the lanes of `W`: lanes.cuh on a GPU, host_lanes.h in
// tests. Lanes add in a fixed order, so that a chunk has the same bits wherever it runs.
#pragma once

#include "kernels/cuda/device_functions.h"

namespace mnemosyne::kernels::cuda {

template <class W>
struct WarpFunctions {
  using F = typename W::Floats;
  using D = typename W::Doubles;
  using I = typename W::Ints;
  using B = typename W::Bools;

  struct alignas(16) Four {
    float x[4];
  };

  // Four numbers in a row, the same for all lanes.
  static MNEMOSYNE_DEVICE Four Uniform(const float* p) { return *reinterpret_cast<const Four*>(p); }

  static MNEMOSYNE_DEVICE F Tanh(F x) {
    const F limit(7.90531110763549805F);
    x = W::Max(W::Min(x, limit), F(0.0F) - limit);
    const F s = x * x;
    F above(-2.76076847742355e-16F);
    above = W::Fma(above, s, F(2.00018790482477e-13F));
    above = W::Fma(above, s, F(-8.60467152213735e-11F));
    above = W::Fma(above, s, F(5.12229709037114e-08F));
    above = W::Fma(above, s, F(1.48572235717979e-05F));
    above = W::Fma(above, s, F(6.37261928875436e-04F));
    above = W::Fma(above, s, F(4.89352455891786e-03F));
    F below(1.19825839466702e-06F);
    below = W::Fma(below, s, F(1.18534705686654e-04F));
    below = W::Fma(below, s, F(2.26843463243900e-03F));
    below = W::Fma(below, s, F(4.89352518554385e-03F));
    return W::Divide(above * x, below);
  }

  static MNEMOSYNE_DEVICE F DivideOrZero(F above, F below) {
    const F size = W::Max(below, F(0.0F) - below), zero(0.0F);
    return W::Select(F(kDenominatorMin) < size, W::Divide(above, below), zero);
  }

  // The sum over all lanes, in each of them.
  static MNEMOSYNE_DEVICE F Sum(F x) {
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 16; mask > 0; mask /= 2) x = x + W::Exchange(x, mask);
    return x;
  }
  static MNEMOSYNE_DEVICE D Total(D x) {
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 16; mask > 0; mask /= 2) x = x + W::Exchange(x, mask);
    return x;
  }
  // The sum over 8 lanes in a row, in each of them.
  static MNEMOSYNE_DEVICE F SumEight(F x) {
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 4; mask > 0; mask /= 2) x = x + W::Exchange(x, mask);
    return x;
  }

  // Lanes whose bit is set get the sum of `b` over both, the others that of `a`.
  static MNEMOSYNE_DEVICE F Fold(F a, F b, int mask) {
    const B upper = (W::Lane() & mask) == I(mask);
    return W::Select(upper, b, a) + W::Exchange(W::Select(upper, a, b), mask);
  }

  // Lanes l and l + 16 get the sum over all lanes of x[l]; `x` is lost.
  static MNEMOSYNE_DEVICE F FoldSixteen(F (&x)[16]) {
    MNEMOSYNE_UNROLL_ALL
    for (int half = 8; half > 0; half /= 2) {
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 8; ++i) {
        if (i < half) x[i] = Fold(x[i], x[i + half], half);
      }
    }
    return x[0] + W::Exchange(x[0], 16);
  }

  // Each lane gets the sum over all lanes of x[FoldedPlace()]; `x` is lost.
  static MNEMOSYNE_DEVICE F FoldTwelve(F (&x)[12]) {
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 6; ++i) x[i] = Fold(x[i], x[i + 6], 8);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 3; ++i) x[i] = Fold(x[i], x[i + 3], 4);
    x[0] = Fold(x[0], x[1], 2);
    x[2] = x[2] + W::Exchange(x[2], 2);
    x[0] = Fold(x[0], x[2], 1);
    return x[0] + W::Exchange(x[0], 16);
  }
  // Which of twelve a lane gets: several lanes have the same.
  static MNEMOSYNE_DEVICE I FoldedPlace() {
    const I lane = W::Lane(), last = lane & I(1);
    return ((lane >> 3) & I(1)) * I(6) + ((lane >> 2) & I(1)) * I(3) + last * I(2) +
           (I(1) - last) * ((lane >> 1) & I(1));
  }

  // Squares of four in float32, which is exact enough for a sum of a few; all further in float64.
  static MNEMOSYNE_DEVICE void AddSquares(const F (&x)[4], D& sum) {
    F squares = x[0] * x[0];
    MNEMOSYNE_UNROLL_ALL
    for (int i = 1; i < 4; ++i) squares = W::Fma(x[i], x[i], squares);
    sum = sum + W::ToDouble(squares);
  }
};

}  // namespace mnemosyne::kernels::cuda
