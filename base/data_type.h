// Types of tensor elements, and conversion between float32 and the 16-bit types.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace mnemosyne {

// The numbers are those of mnemosyne.v1.DataType.
enum class DataType : uint8_t { kFloat32 = 1, kBFloat16 = 2, kFloat16 = 3, kFloat64 = 4 };

// Bytes of one element.
size_t ElementSize(DataType type);

// Such as `float32`.
std::string_view DataTypeName(DataType type);

// Whether gradients and updates may travel as `type`: float32, bfloat16, float16.
bool IsWireType(DataType type);

// Reads `count` elements of `type` from `source` (any alignment, little-endian) into `target`.
// `source` may be the last count * ElementSize(type) bytes of the memory of `target`.
void DecodeElements(DataType type, const std::byte* source, float* target, size_t count);

// Writes `count` floats as `type`, rounded to nearest even, to `target` (any alignment). `target`
// may be the first bytes of the memory of `source`. Values beyond float16 become infinities.
void EncodeElements(DataType type, const float* source, std::byte* target, size_t count);

}  // namespace mnemosyne
