// Where an op works. Plain structs, for files that the CUDA compiler reads.
#pragma once

#include <cstddef>

namespace mnemosyne::kernels {

// A run of elements in an arena.
struct Segment {
  size_t offset;
  size_t count;
};

// A part of a segment.
struct Block {
  size_t segment;  // Position in the op's segments.
  size_t offset;   // In the arena, in elements.
  size_t count;
};

}  // namespace mnemosyne::kernels
