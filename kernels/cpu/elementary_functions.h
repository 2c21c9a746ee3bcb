// Elementary functions of `Floats`, from + - * / and fused multiply-adds alone, so that every
// instruction set that has these gives the same bits. Included by kernel_loops.h, inside its
// unnamed namespace; see there for Floats.

// A quotient that is not divided yet, so that factors can share one division.
struct Ratio {
  Floats above, below;
};

inline Floats Divide(const Ratio& ratio) { return ratio.above / ratio.below; }

// tanh(x): an odd rational function within 1e-7 of it; exactly 1 in magnitude nowhere.
// Reference: Eigen's ptanh, as XLA has it.
inline Ratio TanhRatio(Floats x) {
  const Floats limit = Splat(7.90531110763549805F);
  x = Max(Min(x, limit), Splat(0) - limit);
  const Floats s = x * x;
  Floats above = Splat(-2.76076847742355e-16F);
  above = Fma(above, s, Splat(2.00018790482477e-13F));
  above = Fma(above, s, Splat(-8.60467152213735e-11F));
  above = Fma(above, s, Splat(5.12229709037114e-08F));
  above = Fma(above, s, Splat(1.48572235717979e-05F));
  above = Fma(above, s, Splat(6.37261928875436e-04F));
  above = Fma(above, s, Splat(4.89352455891786e-03F));
  Floats below = Splat(1.19825839466702e-06F);
  below = Fma(below, s, Splat(1.18534705686654e-04F));
  below = Fma(below, s, Splat(2.26843463243900e-03F));
  below = Fma(below, s, Splat(4.89352518554385e-03F));
  return {above * x, below};
}

inline Floats Tanh(Floats x) { return Divide(TanhRatio(x)); }

// 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2.
inline Ratio SigmoidRatio(Floats x) {
  const Ratio half = TanhRatio(Splat(0.5F) * x);
  return {half.below + half.above, half.below + half.below};
}

// x where it is positive, else exp(x) - 1 = 2 t / (1 - t) with t = tanh(x / 2).
inline Floats Elu(Floats x) {
  const Ratio t = TanhRatio(Splat(0.5F) * Min(x, Splat(0)));
  return SelectLess(Splat(0), x, x, Divide({t.above + t.above, t.below - t.above}));
}

// log(x) of positive numbers that are not denormal, to 1e-7.
// Reference: Moshier, Cephes, logf.
inline Floats Log(Floats x) {
  Floats exponent;
  Floats m = SplitExponent(x, &exponent);  // x = m 2^exponent, 1 <= m < 2
  const Floats root_two = Splat(1.41421356F);
  exponent = SelectLess(m, root_two, exponent, exponent + Splat(1));
  m = SelectLess(m, root_two, m, m * Splat(0.5F));
  const Floats f = m - Splat(1);
  const Floats s = f * f;
  Floats p = Splat(7.0376836292e-2F);
  p = Fma(p, f, Splat(-1.1514610310e-1F));
  p = Fma(p, f, Splat(1.1676998740e-1F));
  p = Fma(p, f, Splat(-1.2420140846e-1F));
  p = Fma(p, f, Splat(1.4249322787e-1F));
  p = Fma(p, f, Splat(-1.6668057665e-1F));
  p = Fma(p, f, Splat(2.0000714765e-1F));
  p = Fma(p, f, Splat(-2.4999993993e-1F));
  p = Fma(p, f, Splat(3.3333331174e-1F));
  Floats y = p * f * s;
  y = Fma(exponent, Splat(-2.12194440e-4F), y);
  y = Fma(Splat(-0.5F), s, y);
  return Fma(exponent, Splat(0.693359375F), f + y);
}

// exp(x) to 1e-7; beyond -87.3 and 88.3, where float32 ends, the value there.
// Reference: Moshier, Cephes, expf.
inline Floats Exp(Floats x) {
  x = Max(Min(x, Splat(88.3762626F)), Splat(-87.3365447F));
  const Floats round = Splat(12582912);  // 1.5 2^23: the sum has no digits behind the point.
  const Floats n = Fma(x, Splat(1.44269504F), round) - round;
  Floats r = Fma(n, Splat(-0.693359375F), x);
  r = Fma(n, Splat(2.12194440e-4F), r);
  Floats p = Splat(1.9875691500e-4F);
  p = Fma(p, r, Splat(1.3981999507e-3F));
  p = Fma(p, r, Splat(8.3334519073e-3F));
  p = Fma(p, r, Splat(4.1665795894e-2F));
  p = Fma(p, r, Splat(1.6666665459e-1F));
  p = Fma(p, r, Splat(5.0000001201e-1F));
  return ScaleByPowerOfTwo(Fma(p, r * r, r) + Splat(1), n);
}
