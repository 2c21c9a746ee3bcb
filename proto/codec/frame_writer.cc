#include "proto/codec/frame_writer.h"

#include <bit>
#include <cstring>

#include "proto/codec/frame_reader.h"

namespace mnemosyne::codec {
namespace {

constexpr uint32_t Tag(uint32_t field, uint32_t wire_type) { return field << 3 | wire_type; }

void AppendVarint(uint64_t value, std::string& out) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

template <typename T>
void AppendFixed(T value, std::string& out) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

}  // namespace

void AppendChunkHeader(const ChunkHeader& header, size_t payload_size, std::string& out) {
  std::string inner;
  if (header.parameter != 0) {
    AppendVarint(Tag(1, 0), inner);
    AppendVarint(static_cast<uint32_t>(header.parameter), inner);
  }
  if (header.cell != 0) {
    AppendVarint(Tag(2, 0), inner);
    AppendVarint(static_cast<uint32_t>(header.cell), inner);
  }
  if (header.decay != 0) {
    AppendVarint(Tag(3, 1), inner);
    AppendFixed(header.decay, inner);
  }
  if (header.scale != 1) {
    AppendVarint(Tag(4, 1), inner);
    AppendFixed(header.scale, inner);
  }
  if (header.crc32c) {
    AppendVarint(Tag(5, 5), inner);
    AppendFixed(*header.crc32c, inner);
  }
  AppendVarint(Tag(15, 2), inner);
  AppendVarint(payload_size, inner);

  AppendVarint(Tag(kChunksField, 2), out);
  AppendVarint(inner.size() + payload_size, out);
  out.append(inner);
}

void AppendPart(uint32_t field, std::string_view bytes, std::string& out) {
  AppendVarint(Tag(field, 2), out);
  AppendVarint(bytes.size(), out);
  out.append(bytes);
}

}  // namespace mnemosyne::codec
