// Messages in pieces, for tests of the codec.
#pragma once

#include <algorithm>
#include <cstddef>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proto/codec/slice_cursor.h"

namespace mnemosyne::codec {

inline std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Cuts `text`, which outlives the result, into pieces of `size` bytes with an empty one before
// each.
inline std::vector<Slice> Cut(std::string_view text, size_t size) {
  std::vector<Slice> slices;
  for (size_t start = 0; start < text.size(); start += size) {
    slices.emplace_back();
    slices.push_back(Bytes(text.substr(start, size)));
  }
  return slices;
}

// Cuts `text` at random places.
inline std::vector<Slice> CutAtRandom(std::string_view text, std::mt19937& random) {
  std::vector<Slice> slices;
  while (!text.empty()) {
    const size_t size = std::uniform_int_distribution<size_t>(0, text.size())(random);
    slices.push_back(Bytes(text.substr(0, size)));
    text.remove_prefix(size);
  }
  return slices;
}

inline std::string Text(SliceCursor cursor) {
  std::string text(cursor.remaining(), '\0');
  cursor.Read(reinterpret_cast<std::byte*>(text.data()), text.size());
  return text;
}

}  // namespace mnemosyne::codec
