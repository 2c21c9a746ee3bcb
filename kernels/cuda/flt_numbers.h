// Functions of one thread for FLT attention: elements of tensors, phases, exponentials. Written so
// that tests run them on a CPU.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cuda/device_functions.h"
#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

MNEMOSYNE_DEVICE uint32_t BitsOf(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}
MNEMOSYNE_DEVICE float FloatOf(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

MNEMOSYNE_DEVICE bool IsFinite(float x) { return (BitsOf(x) & 0x7F800000U) != 0x7F800000U; }

MNEMOSYNE_DEVICE float FromBFloat16(uint16_t bits) {
  return FloatOf(static_cast<uint32_t>(bits) << 16U);
}

// Rounded to nearest even; a NaN stays one.
MNEMOSYNE_DEVICE uint16_t ToBFloat16(float x) {
  const uint32_t bits = BitsOf(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<uint16_t>((bits >> 16U) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}

MNEMOSYNE_DEVICE float FromFloat16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16U, rest = half & 0x7FFFU;
  if (rest >= 0x7C00U) return FloatOf(sign | 0x7F800000U | (rest << 13U));
  return FloatOf(sign | BitsOf(FloatOf(rest << 13U) * 0x1p112F));
}

// Rounded to nearest even; what is beyond becomes infinite.
MNEMOSYNE_DEVICE uint16_t ToFloat16(float x) {
  const uint32_t bits = BitsOf(x), sign = (bits >> 16U) & 0x8000U, size = bits & 0x7FFFFFFFU;
  if (size > 0x7F800000U) return static_cast<uint16_t>(sign | 0x7E00U);
  if (size >= 0x477FF000U) return static_cast<uint16_t>(sign | 0x7C00U);  // 65520
  if (size < 0x38800000U) {  // Below 2^-14: a sum with 0.5 rounds to multiples of 2^-24.
    return static_cast<uint16_t>(sign | (BitsOf(FloatOf(size) + 0.5F) - 0x3F000000U));
  }
  return static_cast<uint16_t>(sign |
                               ((size - 0x38000000U + 0xFFFU + ((size >> 13U) & 1U)) >> 13U));
}

MNEMOSYNE_DEVICE size_t ElementAt(const FltTensor& tensor, const FltPart& part, size_t row) {
  return part.batch * tensor.batch_stride + part.head * tensor.head_stride +
         row * tensor.row_stride;
}

MNEMOSYNE_DEVICE float ReadElement(FltType type, const void* data, size_t at) {
  if (type == FltType::kFloat32) return static_cast<const float*>(data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(data)[at];
  return type == FltType::kBFloat16 ? FromBFloat16(bits) : FromFloat16(bits);
}

MNEMOSYNE_DEVICE void WriteElement(FltType type, void* data, size_t at, float x) {
  if (type == FltType::kFloat32) {
    static_cast<float*>(data)[at] = x;
  } else {
    static_cast<uint16_t*>(data)[at] = type == FltType::kBFloat16 ? ToBFloat16(x) : ToFloat16(x);
  }
}

// exp(x), 0 where float32 ends.
MNEMOSYNE_DEVICE float FlushedExp(float x) { return x > -87.0F ? expf(x) : 0.0F; }

// 2^x within 2^-22, 0 where float32 ends.
MNEMOSYNE_DEVICE float Exp2(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return x < -126.0F ? 0.0F : exp2f(x);
#endif
}

// 1 / x within 2^-22, of a number that is neither too small nor too large for that.
MNEMOSYNE_DEVICE float Inverse(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1 / x;
#endif
}

inline constexpr float kLog2OfE = 1.44269504F;

// x less the nearest whole number; exact.
MNEMOSYNE_DEVICE float DropTurns(float x) { return x - rintf(x); }

// Turns xi . r, less whole ones but for a few: two terms a product.
MNEMOSYNE_DEVICE float TurnsAt(const FltShape& shape, const float* frequencies,
                               const float* position, uint32_t wave) {
  float turns = 0;
  for (uint32_t axis = 0; axis < shape.positions; ++axis) {
    const float xi = frequencies[axis * shape.wave_stride + wave], at = position[axis];
#ifdef __CUDA_ARCH__
    const float product = __fmul_rn(xi, at);
#else
    const float product = xi * at;
#endif
    turns += DropTurns(product) + DropTurns(fmaf(xi, at, -product));
  }
  return turns;
}

// cos and sin of 2 pi t, to 1e-7, for |t| <= 1/2.
// Reference: Moshier, Cephes, sinf and cosf.
MNEMOSYNE_DEVICE void CosineAndSine(float t, float* cosine, float* sine) {
  const float quarter = rintf(4 * t);
  const float x = fmaf(-0.25F, quarter, t) * 6.28318531F, z = x * x;
  float s = -1.9515295891e-4F;
  s = fmaf(s, z, 8.3321608736e-3F);
  s = fmaf(s, z, -1.6666654611e-1F);
  s = fmaf(s * z, x, x);
  float c = 2.443315711809948e-5F;
  c = fmaf(c, z, -1.388731625493765e-3F);
  c = fmaf(c, z, 4.166664568298827e-2F);
  c = fmaf(c * z, z, fmaf(-0.5F, z, 1.0F));
  const bool odd = fabsf(fabsf(quarter) - 1) < 0.5F;
  const float along = odd ? s : c, across = odd ? c : s;
  *cosine = quarter > 0.5F || quarter < -1.5F ? -along : along;
  *sine = quarter > 1.5F || quarter < -0.5F ? -across : across;
}

// cos and sin of x within 1e-6 and the rounding of x.
MNEMOSYNE_DEVICE void QuickCosineAndSineOf(float x, float* cosine, float* sine) {
#ifdef __CUDA_ARCH__
  *cosine = __cosf(x);
  *sine = __sinf(x);
#else
  *cosine = cosf(x);
  *sine = sinf(x);
#endif
}

// cos and sin of 2 pi t within 1e-6, for t of a few turns.
MNEMOSYNE_DEVICE void QuickCosineAndSine(float t, float* cosine, float* sine) {
  QuickCosineAndSineOf(t * 6.28318531F, cosine, sine);
}

}  // namespace mnemosyne::kernels::cuda
