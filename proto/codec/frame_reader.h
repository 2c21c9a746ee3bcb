// Reads a message of the Optimize stream without copying the tensors in it. Both directions have
// the same frame: chunks are field 3, all other parts are small messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/codec/slice_cursor.h"

namespace mnemosyne::codec {

// The field that holds chunks in OptimizeRequest and OptimizeResponse.
inline constexpr uint32_t kChunksField = 3;

// The most chunks in one message: more would take far more memory than the message has bytes.
inline constexpr size_t kChunksMax = 65'536;

// A TensorChunk whose payload still lies in the message.
struct ChunkView {
  int32_t parameter = 0;
  int32_t cell = 0;
  double decay = 0;
  double scale = 1;
  std::optional<uint32_t> crc32c;
  SliceCursor payload;
};

// Any other part of the message, as its serialized bytes.
struct FramePart {
  uint32_t field;
  std::string bytes;
};

struct Frame {
  std::vector<FramePart> parts;   // In the order of their numbers, those of equal numbers merged.
  std::vector<ChunkView> chunks;  // In the order of the message.
};

// Parses a message that lies in `slices`, which outlive the result. Fields may come in any order
// and unknown ones are passed over, as protobuf asks. InvalidArgument with reason
// PROTOCOL_VIOLATION if it is malformed or has more than kChunksMax chunks.
absl::StatusOr<Frame> ReadFrame(std::span<const Slice> slices);

}  // namespace mnemosyne::codec
