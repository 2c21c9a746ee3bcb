// The functions of kernels/cpu/elementary_functions.h on a GPU, rounding for rounding: the same
// bits as the CPU's AVX2 loops.
#pragma once

namespace mnemosyne::kernels::cuda {

// A quotient that is not divided yet.
struct Ratio {
  float above, below;
};

__device__ inline float Divide(Ratio ratio) { return __fdiv_rn(ratio.above, ratio.below); }

__device__ inline Ratio Product(Ratio a, Ratio b) {
  return {__fmul_rn(a.above, b.above), __fmul_rn(a.below, b.below)};
}

__device__ inline Ratio TanhRatio(float x) {
  const float limit = 7.90531110763549805F;
  x = fmaxf(fminf(x, limit), -limit);
  const float s = __fmul_rn(x, x);
  float above = -2.76076847742355e-16F;
  above = __fmaf_rn(above, s, 2.00018790482477e-13F);
  above = __fmaf_rn(above, s, -8.60467152213735e-11F);
  above = __fmaf_rn(above, s, 5.12229709037114e-08F);
  above = __fmaf_rn(above, s, 1.48572235717979e-05F);
  above = __fmaf_rn(above, s, 6.37261928875436e-04F);
  above = __fmaf_rn(above, s, 4.89352455891786e-03F);
  float below = 1.19825839466702e-06F;
  below = __fmaf_rn(below, s, 1.18534705686654e-04F);
  below = __fmaf_rn(below, s, 2.26843463243900e-03F);
  below = __fmaf_rn(below, s, 4.89352518554385e-03F);
  return {__fmul_rn(above, x), below};
}

__device__ inline float Tanh(float x) { return Divide(TanhRatio(x)); }

__device__ inline Ratio SigmoidRatio(float x) {
  const Ratio half = TanhRatio(__fmul_rn(0.5F, x));
  return {__fadd_rn(half.below, half.above), __fadd_rn(half.below, half.below)};
}

__device__ inline float Elu(float x) {
  if (x > 0) return x;
  const Ratio t = TanhRatio(__fmul_rn(0.5F, x));
  return Divide({__fadd_rn(t.above, t.above), __fsub_rn(t.below, t.above)});
}

__device__ inline float Log(float x) {
  const unsigned bits = __float_as_uint(x);
  float exponent = static_cast<float>(static_cast<int>(bits >> 23) - 127);
  float m = __uint_as_float((bits & 0x007FFFFFU) | 0x3F800000U);
  if (!(m < 1.41421356F)) {
    exponent = __fadd_rn(exponent, 1);
    m = __fmul_rn(m, 0.5F);
  }
  const float f = __fsub_rn(m, 1);
  const float s = __fmul_rn(f, f);
  float p = 7.0376836292e-2F;
  p = __fmaf_rn(p, f, -1.1514610310e-1F);
  p = __fmaf_rn(p, f, 1.1676998740e-1F);
  p = __fmaf_rn(p, f, -1.2420140846e-1F);
  p = __fmaf_rn(p, f, 1.4249322787e-1F);
  p = __fmaf_rn(p, f, -1.6668057665e-1F);
  p = __fmaf_rn(p, f, 2.0000714765e-1F);
  p = __fmaf_rn(p, f, -2.4999993993e-1F);
  p = __fmaf_rn(p, f, 3.3333331174e-1F);
  float y = __fmul_rn(__fmul_rn(p, f), s);
  y = __fmaf_rn(exponent, -2.12194440e-4F, y);
  y = __fmaf_rn(-0.5F, s, y);
  return __fmaf_rn(exponent, 0.693359375F, __fadd_rn(f, y));
}

__device__ inline float Exp(float x) {
  x = fmaxf(fminf(x, 88.3762626F), -87.3365447F);
  const float round = 12582912;
  const float n = __fsub_rn(__fmaf_rn(x, 1.44269504F, round), round);
  float r = __fmaf_rn(n, -0.693359375F, x);
  r = __fmaf_rn(n, 2.12194440e-4F, r);
  float p = 1.9875691500e-4F;
  p = __fmaf_rn(p, r, 1.3981999507e-3F);
  p = __fmaf_rn(p, r, 8.3334519073e-3F);
  p = __fmaf_rn(p, r, 4.1665795894e-2F);
  p = __fmaf_rn(p, r, 1.6666665459e-1F);
  p = __fmaf_rn(p, r, 5.0000001201e-1F);
  const float scale = __int_as_float((static_cast<int>(n) + 127) << 23);
  return __fmul_rn(__fadd_rn(__fmaf_rn(p, __fmul_rn(r, r), r), 1), scale);
}

}  // namespace mnemosyne::kernels::cuda
