// Files of safetensors, good and bad, made in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace mnemosyne::testing {

inline std::vector<std::byte> ToBytes(std::string_view text) {
  std::vector<std::byte> bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

// A file of a header, whatever it says, and `data`.
inline std::vector<std::byte> SafetensorsFile(std::string_view header, std::string_view data) {
  const uint64_t length = header.size();
  std::string text(reinterpret_cast<const char*>(&length), sizeof(length));
  return ToBytes(text.append(header).append(data));
}

}  // namespace mnemosyne::testing
