// The loops for every machine: a vector is four of the compiler's own vectors, which it maps to
// whatever registers the baseline of the build has. It has no fused multiply-add.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "kernels/cpu/kernel_table.h"

namespace mnemosyne::kernels::cpu {
namespace {

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef double Double2 __attribute__((vector_size(16)));

struct Floats {
  Float4 part[4];
};

// Applies `op` to each part.
template <typename Op>
inline Floats Map(Op op) {
  return {{op(0), op(1), op(2), op(3)}};
}

inline Floats Load(const float* source) {
  Floats result;
  memcpy(result.part, source, sizeof(result.part));
  return result;
}
inline void Store(float* target, const Floats& x) { memcpy(target, x.part, sizeof(x.part)); }
inline Floats LoadFirst(const float* source, size_t width) {
  if (width == 16) return Load(source);
  float lanes[16] = {};
  for (size_t i = 0; i < width; ++i) lanes[i] = source[i];
  return Load(lanes);
}
inline void StoreFirst(float* target, const Floats& x, size_t width) {
  if (width == 16) return Store(target, x);
  float lanes[16];
  Store(lanes, x);
  for (size_t i = 0; i < width; ++i) target[i] = lanes[i];
}
inline Floats Splat(float x) {
  return Map([&](int) { return Float4{x, x, x, x}; });
}
inline Floats operator+(const Floats& a, const Floats& b) {
  return Map([&](int i) { return a.part[i] + b.part[i]; });
}
inline Floats operator-(const Floats& a, const Floats& b) {
  return Map([&](int i) { return a.part[i] - b.part[i]; });
}
inline Floats operator*(const Floats& a, const Floats& b) {
  return Map([&](int i) { return a.part[i] * b.part[i]; });
}
inline Floats operator/(const Floats& a, const Floats& b) {
  return Map([&](int i) { return a.part[i] / b.part[i]; });
}
inline Float4 Sqrt4(Float4 a) {
#if defined(__SSE2__)
  return _mm_sqrt_ps(a);
#else
  return Float4{sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])};
#endif
}
inline Floats Sqrt(const Floats& a) {
  return Map([&](int i) { return Sqrt4(a.part[i]); });
}
inline Floats Fma(const Floats& a, const Floats& b, const Floats& c) { return a * b + c; }

// x in the lanes where all bits of `mask` are set, else y.
inline Float4 Choose(Int4 mask, Float4 x, Float4 y) {
  return reinterpret_cast<Float4>((mask & reinterpret_cast<Int4>(x)) |
                                  (~mask & reinterpret_cast<Int4>(y)));
}
inline Floats SelectLess(const Floats& a, const Floats& b, const Floats& x, const Floats& y) {
  return Map([&](int i) { return Choose(a.part[i] < b.part[i], x.part[i], y.part[i]); });
}
inline Floats Min(const Floats& a, const Floats& b) { return SelectLess(a, b, a, b); }
inline Floats Max(const Floats& a, const Floats& b) { return SelectLess(b, a, a, b); }
inline Floats SplitExponent(const Floats& x, Floats* exponent) {
  const Int4 bias = {127, 127, 127, 127};
  const Int4 fraction = {0x007FFFFF, 0x007FFFFF, 0x007FFFFF, 0x007FFFFF};
  const Int4 one = {0x3F800000, 0x3F800000, 0x3F800000, 0x3F800000};
  *exponent = Map([&](int i) {
    return __builtin_convertvector((reinterpret_cast<Int4>(x.part[i]) >> 23) - bias, Float4);
  });
  return Map([&](int i) {
    return reinterpret_cast<Float4>((reinterpret_cast<Int4>(x.part[i]) & fraction) | one);
  });
}
inline Floats ScaleByPowerOfTwo(const Floats& x, const Floats& n) {
  const Int4 bias = {127, 127, 127, 127};
  return Map([&](int i) {
    const Int4 biased = __builtin_convertvector(n.part[i], Int4) + bias;
    return x.part[i] * reinterpret_cast<Float4>(biased << 23);
  });
}

inline float SumOne(const Floats& x) {
  const Float4 low = x.part[0] + x.part[2], high = x.part[1] + x.part[3];
  return ((low[0] + low[2]) + (low[1] + low[3])) + ((high[0] + high[2]) + (high[1] + high[3]));
}
inline void SumLanes(const Floats& a, const Floats& b, const Floats& c, const Floats& d,
                     float* sums) {
  sums[0] = SumOne(a);
  sums[1] = SumOne(b);
  sums[2] = SumOne(c);
  sums[3] = SumOne(d);
}
inline void TransposeFour(const float* rows, size_t stride, float* columns) {
  for (size_t row = 0; row < 16; ++row) {
    for (size_t k = 0; k < 4; ++k) columns[16 * k + row] = rows[row * stride + k];
  }
}

// All ones in the lanes that are finite: those whose exponent is not.
inline Int4 FiniteMask(Float4 x) {
  const Int4 exponent = {0x7F800000, 0x7F800000, 0x7F800000, 0x7F800000};
  return (reinterpret_cast<Int4>(x) & exponent) != exponent;
}
inline Floats ZeroNonFinite(const Floats& a) {
  return Map([&](int i) {
    return reinterpret_cast<Float4>(reinterpret_cast<Int4>(a.part[i]) & FiniteMask(a.part[i]));
  });
}
inline int CountNonFinite(const Floats& a) {
  const Int4 finite = FiniteMask(a.part[0]) + FiniteMask(a.part[1]) + FiniteMask(a.part[2]) +
                      FiniteMask(a.part[3]);  // -1 for each.
  return 16 + finite[0] + finite[1] + finite[2] + finite[3];
}

inline uint32_t Signs(const Floats& a) {
  const Float4 zero = {};
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    const Int4 lane_bits = Int4{1, 2, 4, 8} << (4 * i);
    const Int4 bits = ((a.part[i] < zero) & lane_bits) | ((a.part[i] > zero) & (lane_bits << 16));
    word |= static_cast<uint32_t>(bits[0] | bits[1] | bits[2] | bits[3]);
  }
  return word;
}
inline Floats FromSigns(uint32_t word) {
  const auto all = static_cast<int32_t>(word);
  const Int4 words = {all, all, all, all};
  const Int4 zero = {};
  return Map([&](int i) {
    const Int4 lane_bits = Int4{1, 2, 4, 8} << (4 * i);
    const Int4 negative = (words & lane_bits) != zero;  // -1 where it is.
    const Int4 positive = (words & (lane_bits << 16)) != zero;
    return __builtin_convertvector(negative - positive, Float4);
  });
}

struct SquareSum {
  Double2 lanes[8] = {};

  void Add(const Floats& x) {
    for (int i = 0; i < 4; ++i) {
      const Double2 low = {static_cast<double>(x.part[i][0]), static_cast<double>(x.part[i][1])};
      const Double2 high = {static_cast<double>(x.part[i][2]), static_cast<double>(x.part[i][3])};
      lanes[2 * i] += low * low;
      lanes[2 * i + 1] += high * high;
    }
  }
  void Store(double* target) const { memcpy(target, lanes, sizeof(lanes)); }
};

}  // namespace
}  // namespace mnemosyne::kernels::cpu

#include "kernels/cpu/kernel_loops.h"

namespace mnemosyne::kernels::cpu {
const KernelTable kBaselineKernels = MakeTable("baseline");
}  // namespace mnemosyne::kernels::cpu
