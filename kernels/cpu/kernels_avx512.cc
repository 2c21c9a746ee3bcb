// The loops for AVX-512F, AVX-512DQ and AVX-512VL: a vector is one register.
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu/kernel_table.h"

namespace mnemosyne::kernels::cpu {
namespace {

struct Floats {
  __m512 v;
};

inline Floats Load(const float* source) { return {_mm512_loadu_ps(source)}; }
inline void Store(float* target, Floats x) { _mm512_storeu_ps(target, x.v); }
inline __mmask16 FirstMask(size_t width) { return static_cast<__mmask16>((1U << width) - 1); }
inline Floats LoadFirst(const float* source, size_t width) {
  return {_mm512_maskz_loadu_ps(FirstMask(width), source)};
}
inline void StoreFirst(float* target, Floats x, size_t width) {
  _mm512_mask_storeu_ps(target, FirstMask(width), x.v);
}
inline Floats Splat(float x) { return {_mm512_set1_ps(x)}; }
inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats Sqrt(Floats a) { return {_mm512_sqrt_ps(a.v)}; }
inline Floats Fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats Min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats Max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats SelectLess(Floats a, Floats b, Floats x, Floats y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
inline Floats SplitExponent(Floats x, Floats* exponent) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i biased = _mm512_srli_epi32(bits, 23);
  exponent->v = _mm512_cvtepi32_ps(_mm512_sub_epi32(biased, _mm512_set1_epi32(127)));
  const __m512i fraction = _mm512_and_si512(bits, _mm512_set1_epi32(0x007FFFFF));
  return {_mm512_castsi512_ps(_mm512_or_si512(fraction, _mm512_set1_epi32(0x3F800000)))};
}
inline Floats ScaleByPowerOfTwo(Floats x, Floats n) { return {_mm512_scalef_ps(x.v, n.v)}; }

// Sums of the even and of the odd pairs of each half of two vectors, next to each other.
inline __m256 AddPairs(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
}
inline __m256 AddHalves(Floats x) {
  return _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
}
inline void SumLanes(Floats a, Floats b, Floats c, Floats d, float* sums) {
  const __m256d first = _mm256_castps_pd(AddPairs(AddHalves(a), AddHalves(b)));
  const __m256d second = _mm256_castps_pd(AddPairs(AddHalves(c), AddHalves(d)));
  const __m256 quarters = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(first, second)),
                                        _mm256_castpd_ps(_mm256_unpackhi_pd(first, second)));
  _mm_storeu_ps(sums,
                _mm_add_ps(_mm256_castps256_ps128(quarters), _mm256_extractf128_ps(quarters, 1)));
}

// Four numbers of the rows `row`, `row` + 4 and so on, one quarter each.
inline __m512 LoadQuarters(const float* rows, size_t stride, size_t row) {
  const float* const at = rows + row * stride;
  __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(at));
  x = _mm512_insertf32x4(x, _mm_loadu_ps(at + 4 * stride), 1);
  x = _mm512_insertf32x4(x, _mm_loadu_ps(at + 8 * stride), 2);
  return _mm512_insertf32x4(x, _mm_loadu_ps(at + 12 * stride), 3);
}
inline void TransposeFour(const float* rows, size_t stride, float* columns) {
  const __m512 x0 = LoadQuarters(rows, stride, 0), x1 = LoadQuarters(rows, stride, 1);
  const __m512 x2 = LoadQuarters(rows, stride, 2), x3 = LoadQuarters(rows, stride, 3);
  const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(x0, x1));
  const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(x0, x1));
  const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(x2, x3));
  const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(x2, x3));
  _mm512_storeu_pd(columns, _mm512_unpacklo_pd(low01, low23));
  _mm512_storeu_pd(columns + 16, _mm512_unpackhi_pd(low01, low23));
  _mm512_storeu_pd(columns + 32, _mm512_unpacklo_pd(high01, high23));
  _mm512_storeu_pd(columns + 48, _mm512_unpackhi_pd(high01, high23));
}

inline __mmask16 FiniteMask(Floats a) {
  return _mm512_cmp_ps_mask(_mm512_abs_ps(a.v), _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
}
inline Floats ZeroNonFinite(Floats a) { return {_mm512_maskz_mov_ps(FiniteMask(a), a.v)}; }
inline int CountNonFinite(Floats a) {
  return 16 - __builtin_popcount(static_cast<uint32_t>(FiniteMask(a)));
}

inline uint32_t Signs(Floats a) {
  const __m512 zero = _mm512_setzero_ps();
  const uint32_t negative = _mm512_cmp_ps_mask(a.v, zero, _CMP_LT_OQ);
  const uint32_t positive = _mm512_cmp_ps_mask(a.v, zero, _CMP_GT_OQ);
  return negative | positive << 16;
}
inline Floats FromSigns(uint32_t word) {
  const __m512 positive =
      _mm512_maskz_mov_ps(static_cast<__mmask16>(word >> 16), _mm512_set1_ps(1));
  return {_mm512_mask_mov_ps(positive, static_cast<__mmask16>(word), _mm512_set1_ps(-1))};
}

struct SquareSum {
  __m512d low = _mm512_setzero_pd();
  __m512d high = _mm512_setzero_pd();

  void Add(Floats x) {
    const __m512d first = _mm512_cvtps_pd(_mm512_castps512_ps256(x.v));
    const __m512d second = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1));
    low = _mm512_fmadd_pd(first, first, low);
    high = _mm512_fmadd_pd(second, second, high);
  }
  void Store(double* target) const {
    _mm512_storeu_pd(target, low);
    _mm512_storeu_pd(target + 8, high);
  }
};

}  // namespace
}  // namespace mnemosyne::kernels::cpu

#include "kernels/cpu/kernel_loops.h"

namespace mnemosyne::kernels::cpu {
const KernelTable kAvx512Kernels = MakeTable("avx512");
}  // namespace mnemosyne::kernels::cpu
