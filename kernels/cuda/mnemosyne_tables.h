// What the flagship's kernels are told of a session: plain structs, built for each step.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/mnemosyne_sizes.h"

namespace mnemosyne::kernels::cuda {

inline constexpr size_t kTileChunks = 32;  // Chunks of a tile.

// Chunks in a row of one parameter.
struct ChunkTile {
  uint32_t first_chunk;
  uint32_t count;   // 1 to kTileChunks
  uint32_t tensor;  // Of the session's.
  uint32_t taking;  // Position among those that take part in a step.
};

// What a tile adds to the sums of its parameter.
struct TileSums {
  double mean_square;  // Of s, times its count of coordinates.
  double shrink;       // Over its chunks.
};

// MnemosyneMemory on a device, with the arena of gradients and updates. The memories of coordinates
// are in 32 bits or in 16; the others are null.
struct MnemosyneArrays {
  float* values;
  float* fast;
  float* square;
  float* slow;
  uint16_t* fast_half;
  uint16_t* square_half;
  uint16_t* slow_half;
  float* inverse_root_scales;
  float* tokens;
  float* content;
  float* mass;
  float* gains;
  MnemosyneChoice* choices;
  const MnemosyneChunk* chunks;
  const float* positions;
  float* context_queries;
  float* context_contents;
  size_t tensor_count;
};

// Keys of the rounding of a parameter's memories to 16 bits.
struct RoundingKeys {
  uint32_t fast, square, slow;
};

// What changes from step to step: on the device.
struct MnemosyneStepTables {
  const ChunkTile* tiles;            // [tile_count]: of those that take part.
  const MnemosyneTensor* tensors;    // [T]
  const MnemosyneTensorStep* steps;  // [k]
  const float* mean_squares;         // [T]: before the step.
  const RoundingKeys* keys;          // [k], of a state of 16 bits; else null.
  size_t tile_count;
};

// What the chunks of a tile have said of a step.
struct TileResult {
  double square_sum;
  uint64_t capped;
};

// Where a step leaves its numbers: on the device.
struct MnemosyneStepSpace {
  double* square_sums;  // [tile_count, kTileChunks]
  uint32_t* capped;     // [tile_count, kTileChunks]
  TileResult* results;  // [tile_count]
  float* scratch;       // [scratch_blocks, StepScratchCount]
  unsigned scratch_blocks;
};

}  // namespace mnemosyne::kernels::cuda
