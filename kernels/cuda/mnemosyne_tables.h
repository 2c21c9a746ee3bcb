// What the flagship's kernels are told of the states that share a call: plain structs. A state is
// that of a session.
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
  uint32_t tensor;  // Of its state's.
  uint32_t taking;  // Position among those of all states that take part in a step.
  uint32_t state;   // Among those of the call.
};

// What a tile adds to the sums of its parameter.
struct TileSums {
  double mean_square;  // Of s, times its count of coordinates.
  double shrink;       // Over its chunks.
};

// As MnemosyneTensorSums.
struct TensorSums {
  double mean_square;
  double shrink;
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
  size_t first_tensor;  // Among those of all states.
};

// The states of a call: a kernel that serves one finds it among its arguments.
struct MnemosyneStates {
  MnemosyneArrays first;
  const MnemosyneArrays* all;  // On the device; null if there is but one.
};

// A sum of rows of contents, which lie in a workspace.
struct RowSum {
  uint32_t first;   // Row of the workspace.
  uint32_t count;   // Rows to add, in order.
  uint32_t stride;  // Rows from one to the next.
  uint32_t to_row;  // Row of the workspace that gets the sum, where `to` is null.
  float* to;
};

// What level 2 is told: on the device. T are the parameters of all states.
struct MnemosyneContextTables {
  const ChunkTile* tiles;          // [tile_count]: of all parameters.
  const MnemosyneTensor* tensors;  // [T]
  const RowSum* sums;              // Those of the first level, [T] of parameters first; and so on.
  size_t tile_count;
  size_t tensor_count;  // T
};

// Where level 2 leaves its numbers: on the device. The first 2 * tile_count rows are of tiles: what
// each adds to the contents of its parameter, then to those of all.
struct MnemosyneContextSpace {
  float* rows;
  TileSums* tile_sums;      // [tile_count]
  TensorSums* tensor_sums;  // [T]
  float* mean_squares;      // [T]: of tensor_sums, rounded.
};

// Keys of the rounding of a parameter's memories to 16 bits.
struct RoundingKeys {
  uint32_t first, slow;  // As `key` and `slow_key` of MnemosyneRounding.
};

// What a step is told: on the device. k are the parameters of all states that take part.
struct MnemosyneStepTables {
  const ChunkTile* tiles;            // [tile_count]: of those that take part.
  const uint32_t* chunks;            // [chunk_count]: tile * kTileChunks + chunk of the tile.
  const MnemosyneTensor* tensors;    // [T]
  const MnemosyneTensorStep* steps;  // [k]
  const float* mean_squares;         // [T]: before the step.
  const RoundingKeys* keys;          // [k], of a state of 16 bits.
  size_t tile_count;
  size_t chunk_count;
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
