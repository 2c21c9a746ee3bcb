// Feeds arbitrary messages to the frame reader, in pieces of a size that the input chooses. What
// protobuf accepts, the reader must accept with the same chunks; whatever comes, it must stay
// within the message. A group, which protobuf passes over and the reader refuses, is the one
// exception.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "mnemosyne/v1/optimizer_service.pb.h"
#include "proto/codec/frame_reader.h"

namespace {

using mnemosyne::codec::ChunkView;
using mnemosyne::codec::Slice;

bool SameChunk(const ChunkView& actual, const mnemosyne::v1::TensorChunk& expected) {
  std::string payload(actual.payload.remaining(), '\0');
  mnemosyne::codec::SliceCursor cursor = actual.payload;
  if (!cursor.Read(reinterpret_cast<std::byte*>(payload.data()), payload.size())) return false;
  return actual.parameter == expected.parameter() && actual.cell == expected.cell() &&
         actual.crc32c.has_value() == expected.has_crc32c() &&
         actual.crc32c.value_or(0) == expected.crc32c() && payload == expected.payload();
}

}  // namespace

// protobuf tells of each message that it cannot read.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t piece = 1 + data[0];
  const auto message = std::as_bytes(std::span(data + 1, size - 1));
  std::vector<Slice> slices;
  for (size_t start = 0; start < message.size(); start += piece) {
    slices.push_back(message.subspan(start, std::min(piece, message.size() - start)));
  }
  const auto frame = mnemosyne::codec::ReadFrame(slices);

  mnemosyne::v1::OptimizeRequest expected;
  const bool valid = expected.ParseFromArray(message.data(), static_cast<int>(message.size()));
  if (!valid || !frame.ok()) return 0;
  if (frame->chunks.size() != static_cast<size_t>(expected.chunks_size())) std::abort();
  for (int i = 0; i < expected.chunks_size(); ++i) {
    if (!SameChunk(frame->chunks[static_cast<size_t>(i)], expected.chunks(i))) std::abort();
  }
  return 0;
}
