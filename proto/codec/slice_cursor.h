// Reads protobuf's wire format from a message that lies in several pieces of memory, without
// joining them: gRPC hands a message of 1 MB over in up to a hundred pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace mnemosyne::codec {

// One piece of a message.
using Slice = std::span<const std::byte>;

// A place in a message and an end. Copying it remembers the place. Reads return nothing, and leave
// the cursor where it is of no further use, if the message ends too early or is malformed.
class SliceCursor {
 public:
  SliceCursor() = default;

  // Starts at the first byte of `slices`, which outlive the cursor and its copies.
  explicit SliceCursor(std::span<const Slice> slices);

  // Bytes until the end.
  size_t remaining() const { return remaining_; }

  // A base-128 integer of at most 64 bits.
  std::optional<uint64_t> ReadVarint();

  // Little-endian numbers of fixed width.
  std::optional<uint32_t> ReadFixed32();
  std::optional<uint64_t> ReadFixed64();

  // Copies the next `size` bytes to `target` and passes them.
  bool Read(std::byte* target, size_t size);

  // Passes the next `size` bytes.
  bool Skip(size_t size);

  // A cursor over the next `size` bytes, which this one passes.
  std::optional<SliceCursor> Take(size_t size);

 private:
  // Moves on while the current piece is used up.
  void Settle();

  std::span<const Slice> slices_;  // The first is the current one.
  size_t offset_ = 0;              // In the current piece.
  size_t remaining_ = 0;
};

}  // namespace mnemosyne::codec
