#include "base/data_type.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace mnemosyne {
namespace {

float FloatFromBfloat16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

uint16_t Bfloat16FromFloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x40);  // NaN
  const uint32_t rounded = bits + 0x7FFF + ((bits >> 16) & 1);
  return static_cast<uint16_t>(rounded >> 16);
}

float FloatFromFloat16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7FFF;
  if (magnitude >= 0x7C00) {  // Infinity or NaN: widen the exponent.
    return std::bit_cast<float>(sign | 0x7F800000 | ((magnitude & 0x3FF) << 13));
  }
  // Exponent bias 15 against 127: scaling by 2^112 also makes subnormal values normal.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112F;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | sign);
}

uint16_t Float16FromFloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);  // NaN
  // 65,520 and above round to infinity.
  if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
  if (magnitude < 0x38800000) {  // Subnormal in float16: 0.5 has an ulp of 2^-24.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000));
  }
  const uint32_t rounded = magnitude + 0xFFF + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

// Elements are taken through a small buffer, a block at a time, so that source and target may share
// memory and need no alignment.
constexpr size_t kBlock = 256;

template <float (*Convert)(uint16_t)>
void DecodeHalves(const std::byte* source, float* target, size_t count) {
  uint16_t block[kBlock];
  for (size_t start = 0; start < count; start += kBlock) {
    const size_t size = std::min(kBlock, count - start);
    std::memcpy(block, source + start * sizeof(uint16_t), size * sizeof(uint16_t));
    for (size_t i = 0; i < size; ++i) target[start + i] = Convert(block[i]);
  }
}

template <uint16_t (*Convert)(float)>
void EncodeHalves(const float* source, std::byte* target, size_t count) {
  uint16_t block[kBlock];
  for (size_t start = 0; start < count; start += kBlock) {
    const size_t size = std::min(kBlock, count - start);
    for (size_t i = 0; i < size; ++i) block[i] = Convert(source[start + i]);
    std::memcpy(target + start * sizeof(uint16_t), block, size * sizeof(uint16_t));
  }
}

}  // namespace

size_t ElementSize(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return 4;
    case DataType::kBFloat16:
    case DataType::kFloat16:
      return 2;
    case DataType::kFloat64:
      return 8;
  }
  return 0;
}

std::string_view DataTypeName(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return "float32";
    case DataType::kBFloat16:
      return "bfloat16";
    case DataType::kFloat16:
      return "float16";
    case DataType::kFloat64:
      return "float64";
  }
  return "unknown";
}

bool IsWireType(DataType type) {
  return type == DataType::kFloat32 || type == DataType::kBFloat16 || type == DataType::kFloat16;
}

void DecodeElements(DataType type, const std::byte* source, float* target, size_t count) {
  switch (type) {
    case DataType::kFloat32:
      if (static_cast<const void*>(source) != target) {
        std::memmove(target, source, count * sizeof(float));
      }
      return;
    case DataType::kBFloat16:
      return DecodeHalves<FloatFromBfloat16>(source, target, count);
    case DataType::kFloat16:
      return DecodeHalves<FloatFromFloat16>(source, target, count);
    case DataType::kFloat64:
      break;
  }
  MNEMO_CHECK(IsWireType(type));
}

void EncodeElements(DataType type, const float* source, std::byte* target, size_t count) {
  switch (type) {
    case DataType::kFloat32:
      if (static_cast<const void*>(source) != target) {
        std::memmove(target, source, count * sizeof(float));
      }
      return;
    case DataType::kBFloat16:
      return EncodeHalves<Bfloat16FromFloat>(source, target, count);
    case DataType::kFloat16:
      return EncodeHalves<Float16FromFloat>(source, target, count);
    case DataType::kFloat64:
      break;
  }
  MNEMO_CHECK(IsWireType(type));
}

}  // namespace mnemosyne
