// Writes a message of the Optimize stream around tensors that stay where they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mnemosyne::codec {

// What goes ahead of a chunk's payload.
struct ChunkHeader {
  int32_t parameter = 0;
  int32_t cell = 0;
  double decay = 0;
  double scale = 1;
  std::optional<uint32_t> crc32c = std::nullopt;
};

// Appends to `out` the bytes of a chunk up to its payload, which the caller sends right after them.
void AppendChunkHeader(const ChunkHeader& header, size_t payload_size, std::string& out);

// Appends a part, a serialized message, under its field number.
void AppendPart(uint32_t field, std::string_view bytes, std::string& out);

}  // namespace mnemosyne::codec
