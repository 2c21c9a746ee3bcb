#include "proto/codec/slice_cursor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace mnemosyne::codec {

static_assert(std::endian::native == std::endian::little);

SliceCursor::SliceCursor(std::span<const Slice> slices) : slices_(slices) {
  for (const Slice& slice : slices) remaining_ += slice.size();
}

void SliceCursor::Settle() {
  while (offset_ == slices_.front().size()) {
    slices_ = slices_.subspan(1);
    offset_ = 0;
  }
}

std::optional<uint64_t> SliceCursor::ReadVarint() {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    std::byte byte;
    if (!Read(&byte, 1)) return std::nullopt;
    const auto bits = std::to_integer<uint64_t>(byte);
    if (shift == 63 && bits > 1) return std::nullopt;  // Beyond 64 bits.
    value |= (bits & 0x7F) << shift;
    if ((bits & 0x80) == 0) return value;
  }
  return std::nullopt;
}

std::optional<uint32_t> SliceCursor::ReadFixed32() {
  std::array<std::byte, 4> bytes;
  if (!Read(bytes.data(), bytes.size())) return std::nullopt;
  return std::bit_cast<uint32_t>(bytes);
}

std::optional<uint64_t> SliceCursor::ReadFixed64() {
  std::array<std::byte, 8> bytes;
  if (!Read(bytes.data(), bytes.size())) return std::nullopt;
  return std::bit_cast<uint64_t>(bytes);
}

bool SliceCursor::Read(std::byte* target, size_t size) {
  if (size > remaining_) return false;
  remaining_ -= size;
  while (size > 0) {
    Settle();
    const size_t part = std::min(size, slices_.front().size() - offset_);
    std::memcpy(target, slices_.front().data() + offset_, part);
    target += part;
    offset_ += part;
    size -= part;
  }
  return true;
}

bool SliceCursor::Skip(size_t size) {
  if (size > remaining_) return false;
  remaining_ -= size;
  while (size > 0) {
    Settle();
    const size_t part = std::min(size, slices_.front().size() - offset_);
    offset_ += part;
    size -= part;
  }
  return true;
}

std::optional<SliceCursor> SliceCursor::Take(size_t size) {
  if (size > remaining_) return std::nullopt;
  SliceCursor part = *this;
  part.remaining_ = size;
  Skip(size);
  return part;
}

}  // namespace mnemosyne::codec
