// The loops for AVX2 and FMA: a vector is two registers.
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu/kernel_table.h"

namespace mnemosyne::kernels::cpu {
namespace {

struct Floats {
  __m256 low, high;
};

inline Floats Load(const float* source) {
  return {_mm256_loadu_ps(source), _mm256_loadu_ps(source + 8)};
}
inline void Store(float* target, Floats x) {
  _mm256_storeu_ps(target, x.low);
  _mm256_storeu_ps(target + 8, x.high);
}
// All ones in those of the lanes from `first` on that are among the first `width`.
inline __m256i FirstMask(int first, size_t width) {
  const __m256i lanes =
      _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(width)), lanes);
}
inline Floats LoadFirst(const float* source, size_t width) {
  if (width == 16) return Load(source);
  return {_mm256_maskload_ps(source, FirstMask(0, width)),
          _mm256_maskload_ps(source + 8, FirstMask(8, width))};
}
inline void StoreFirst(float* target, Floats x, size_t width) {
  if (width == 16) return Store(target, x);
  _mm256_maskstore_ps(target, FirstMask(0, width), x.low);
  _mm256_maskstore_ps(target + 8, FirstMask(8, width), x.high);
}
inline Floats Splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Floats operator+(Floats a, Floats b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Floats operator-(Floats a, Floats b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Floats operator*(Floats a, Floats b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Floats operator/(Floats a, Floats b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Floats Sqrt(Floats a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
inline Floats Fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats Min(Floats a, Floats b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Floats Max(Floats a, Floats b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Floats SelectLess(Floats a, Floats b, Floats x, Floats y) {
  return {_mm256_blendv_ps(y.low, x.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.high, x.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}
inline __m256 SplitHalf(__m256 x, __m256* exponent) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i biased = _mm256_srli_epi32(bits, 23);
  *exponent = _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)));
  const __m256i fraction = _mm256_and_si256(bits, _mm256_set1_epi32(0x007FFFFF));
  return _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3F800000)));
}
inline Floats SplitExponent(Floats x, Floats* exponent) {
  return {SplitHalf(x.low, &exponent->low), SplitHalf(x.high, &exponent->high)};
}
inline __m256 ScaleHalf(__m256 x, __m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)));
}
inline Floats ScaleByPowerOfTwo(Floats x, Floats n) {
  return {ScaleHalf(x.low, n.low), ScaleHalf(x.high, n.high)};
}

// Sums of the even and of the odd pairs of each half of two vectors, next to each other.
inline __m256 AddPairs(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
}
inline __m256 AddHalves(Floats x) { return _mm256_add_ps(x.low, x.high); }
inline void SumLanes(Floats a, Floats b, Floats c, Floats d, float* sums) {
  const __m256d first = _mm256_castps_pd(AddPairs(AddHalves(a), AddHalves(b)));
  const __m256d second = _mm256_castps_pd(AddPairs(AddHalves(c), AddHalves(d)));
  const __m256 quarters = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(first, second)),
                                        _mm256_castpd_ps(_mm256_unpackhi_pd(first, second)));
  _mm_storeu_ps(sums,
                _mm_add_ps(_mm256_castps256_ps128(quarters), _mm256_extractf128_ps(quarters, 1)));
}

// Four numbers of a row and of the fourth one after it, one half each.
inline __m256 LoadHalves(const float* row, size_t stride) {
  return _mm256_set_m128(_mm_loadu_ps(row + 4 * stride), _mm_loadu_ps(row));
}
inline void TransposeFour(const float* rows, size_t stride, float* columns) {
  for (size_t half = 0; half < 2; ++half, rows += 8 * stride, columns += 8) {
    const __m256 x0 = LoadHalves(rows, stride), x1 = LoadHalves(rows + stride, stride);
    const __m256 x2 = LoadHalves(rows + 2 * stride, stride);
    const __m256 x3 = LoadHalves(rows + 3 * stride, stride);
    const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(x0, x1));
    const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(x0, x1));
    const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(x2, x3));
    const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(x2, x3));
    _mm256_storeu_ps(columns, _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)));
    _mm256_storeu_ps(columns + 16, _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)));
    _mm256_storeu_ps(columns + 32, _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23)));
    _mm256_storeu_ps(columns + 48, _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23)));
  }
}

// All ones in the lanes that are finite.
inline __m256 FiniteMask(__m256 x) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), x);
  return _mm256_cmp_ps(magnitude, _mm256_set1_ps(__builtin_inff()), _CMP_LT_OQ);
}
inline Floats ZeroNonFinite(Floats a) {
  return {_mm256_and_ps(FiniteMask(a.low), a.low), _mm256_and_ps(FiniteMask(a.high), a.high)};
}
// One bit for each lane of the two halves.
inline uint32_t Bits(__m256 low, __m256 high) {
  return static_cast<uint32_t>(_mm256_movemask_ps(low)) |
         static_cast<uint32_t>(_mm256_movemask_ps(high)) << 8;
}
inline int CountNonFinite(Floats a) {
  return 16 - __builtin_popcount(Bits(FiniteMask(a.low), FiniteMask(a.high)));
}

inline uint32_t Signs(Floats a) {
  const __m256 zero = _mm256_setzero_ps();
  const uint32_t negative =
      Bits(_mm256_cmp_ps(a.low, zero, _CMP_LT_OQ), _mm256_cmp_ps(a.high, zero, _CMP_LT_OQ));
  const uint32_t positive =
      Bits(_mm256_cmp_ps(a.low, zero, _CMP_GT_OQ), _mm256_cmp_ps(a.high, zero, _CMP_GT_OQ));
  return negative | positive << 16;
}
// `value` in the lanes whose bit, counted from the lowest, is set.
inline __m256 Where(uint32_t bits, float value) {
  const __m256i lane_bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i all = _mm256_set1_epi32(static_cast<int>(bits));
  const __m256i mask = _mm256_cmpeq_epi32(_mm256_and_si256(all, lane_bits), lane_bits);
  return _mm256_and_ps(_mm256_castsi256_ps(mask), _mm256_set1_ps(value));
}
inline Floats FromSigns(uint32_t word) {
  return {_mm256_or_ps(Where(word, -1), Where(word >> 16, 1)),
          _mm256_or_ps(Where(word >> 8, -1), Where(word >> 24, 1))};
}

struct SquareSum {
  __m256d lanes[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                      _mm256_setzero_pd()};

  void Add(Floats x) {
    AddFour(lanes[0], _mm256_castps256_ps128(x.low));
    AddFour(lanes[1], _mm256_extractf128_ps(x.low, 1));
    AddFour(lanes[2], _mm256_castps256_ps128(x.high));
    AddFour(lanes[3], _mm256_extractf128_ps(x.high, 1));
  }
  void Store(double* target) const {
    for (size_t i = 0; i < 4; ++i) _mm256_storeu_pd(target + 4 * i, lanes[i]);
  }

 private:
  static void AddFour(__m256d& sum, __m128 x) {
    const __m256d wide = _mm256_cvtps_pd(x);
    sum = _mm256_fmadd_pd(wide, wide, sum);
  }
};

}  // namespace
}  // namespace mnemosyne::kernels::cpu

#include "kernels/cpu/kernel_loops.h"

namespace mnemosyne::kernels::cpu {
const KernelTable kAvx2Kernels = MakeTable("avx2");
}  // namespace mnemosyne::kernels::cpu
