#include "proto/codec/frame_reader.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/error.h"

namespace mnemosyne::codec {
namespace {

// Wire types of protobuf's encoding.
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// Fields of TensorChunk.
enum ChunkField : uint32_t {
  kParameter = 1,
  kCell = 2,
  kDecay = 3,
  kScale = 4,
  kCrc32c = 5,
  kPayload = 15,
};

// Fields above this one are unknown; passing them over bounds the number of parts.
constexpr uint32_t kPartFieldMax = 15;

struct Tag {
  uint32_t field;
  uint32_t type;
};

absl::Status Malformed(std::string_view what) {
  return WithReason(InvalidArgument("the message is malformed: {}", what), "PROTOCOL_VIOLATION");
}

std::optional<Tag> ReadTag(SliceCursor& cursor) {
  const auto tag = cursor.ReadVarint();
  if (!tag || *tag > UINT32_MAX || *tag >> 3 == 0) return std::nullopt;
  return Tag{static_cast<uint32_t>(*tag >> 3), static_cast<uint32_t>(*tag & 7)};
}

std::optional<SliceCursor> ReadBytes(SliceCursor& cursor) {
  const auto size = cursor.ReadVarint();
  if (!size) return std::nullopt;
  return cursor.Take(*size);
}

bool SkipField(SliceCursor& cursor, uint32_t type) {
  switch (type) {
    case kVarint:
      return cursor.ReadVarint().has_value();
    case kFixed64:
      return cursor.Skip(8);
    case kBytes:
      return ReadBytes(cursor).has_value();
    case kFixed32:
      return cursor.Skip(4);
    default:
      return false;
  }
}

// Reads a field of a known type into `value`; false if it is cut short.
bool ReadInt32(SliceCursor& cursor, int32_t& value) {
  const auto read = cursor.ReadVarint();
  if (!read) return false;
  value = static_cast<int32_t>(static_cast<uint32_t>(*read));
  return true;
}

bool ReadDouble(SliceCursor& cursor, double& value) {
  const auto read = cursor.ReadFixed64();
  if (!read) return false;
  value = std::bit_cast<double>(*read);
  return true;
}

bool ReadChunkField(SliceCursor& cursor, Tag tag, ChunkView& chunk) {
  if (tag.field == kParameter && tag.type == kVarint) return ReadInt32(cursor, chunk.parameter);
  if (tag.field == kCell && tag.type == kVarint) return ReadInt32(cursor, chunk.cell);
  if (tag.field == kDecay && tag.type == kFixed64) return ReadDouble(cursor, chunk.decay);
  if (tag.field == kScale && tag.type == kFixed64) return ReadDouble(cursor, chunk.scale);
  if (tag.field == kCrc32c && tag.type == kFixed32) {
    chunk.crc32c = cursor.ReadFixed32();
    return chunk.crc32c.has_value();
  }
  if (tag.field == kPayload && tag.type == kBytes) {
    const auto payload = ReadBytes(cursor);
    if (payload) chunk.payload = *payload;
    return payload.has_value();
  }
  return SkipField(cursor, tag.type);
}

absl::StatusOr<ChunkView> ReadChunk(SliceCursor cursor) {
  ChunkView chunk;
  while (cursor.remaining() > 0) {
    const auto tag = ReadTag(cursor);
    if (!tag || !ReadChunkField(cursor, *tag, chunk)) return Malformed("a chunk is cut short");
  }
  return chunk;
}

// Adds a part. A message that comes in two pieces is, in protobuf's encoding, their concatenation.
void AddPart(uint32_t field, SliceCursor cursor, std::vector<FramePart>& parts) {
  auto part = std::ranges::find(parts, field, &FramePart::field);
  if (part == parts.end()) part = parts.insert(part, FramePart{field, {}});
  const size_t start = part->bytes.size();
  part->bytes.resize(start + cursor.remaining());
  cursor.Read(reinterpret_cast<std::byte*>(part->bytes.data()) + start, cursor.remaining());
}

}  // namespace

absl::StatusOr<Frame> ReadFrame(std::span<const Slice> slices) {
  Frame frame;
  SliceCursor cursor(slices);
  while (cursor.remaining() > 0) {
    const auto tag = ReadTag(cursor);
    if (!tag) return Malformed("a field has no valid tag");
    if (tag->type != kBytes) {
      if (!SkipField(cursor, tag->type)) return Malformed("a field is cut short");
      continue;
    }
    const auto bytes = ReadBytes(cursor);
    if (!bytes) return Malformed("a field is longer than the message");
    if (tag->field == kChunksField) {
      if (frame.chunks.size() == kChunksMax) return Malformed("it has too many chunks");
      auto chunk = ReadChunk(*bytes);
      if (!chunk.ok()) return chunk.status();
      frame.chunks.push_back(*std::move(chunk));
      continue;
    }
    if (tag->field > kPartFieldMax) continue;
    AddPart(tag->field, *bytes, frame.parts);
  }
  std::ranges::sort(frame.parts, {}, &FramePart::field);
  return frame;
}

}  // namespace mnemosyne::codec
