// Sizes, weights and records of the flagship's ops, as plain structs for files that include no C++
// library. optim/mnemosyne/ says what they are for; metatrain's optimizers/mnemosyne/ specifies
// them.
//
// A parameter is cut into cells of coordinates in a row, its cells into chunks. C are all chunks of
// a session, T its parameters.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/anywhere.h"
#include "kernels/half_state.h"
#include "kernels/row_sizes.h"

namespace mnemosyne::kernels {

// Bounds.
inline constexpr size_t kMnemosyneCellMax = 256;    // Coordinates of a cell.
inline constexpr size_t kMnemosyneChunkMax = 4096;  // Coordinates of a chunk.
inline constexpr size_t kMnemosyneHeadsMax = 16;    // Discounts of the memory in time.
inline constexpr size_t kMnemosyneWidthMax = 64;    // Of tokens of cells, queries and values.

inline constexpr size_t kCellSumCount = 12;        // Sums over the coordinates of a cell.
inline constexpr size_t kCellFeatureCount = 11;    // What a cell's token is made of.
inline constexpr size_t kChunkStatisticCount = 9;  // What cells and chunks have in common.
inline constexpr size_t kConditionCount = 14;      // What a chunk is told besides its gradients.
inline constexpr size_t kDecisionCount = 6;        // What the decoder's last map puts out.

// Features of a chunk: its statistics, its mean square against its tensor's, its log step size, and
// its conditions.
inline constexpr size_t kChunkFeatureCount = kChunkStatisticCount + 2 + kConditionCount;

// Gradients are clamped to this magnitude: the sum of their squares over a cell is finite.
inline constexpr float kGradientMax = 1e18F;

// Sums of squares up to this count as 0 in a feature.
inline constexpr float kSquareMin = 1e-36F;

// Half the logarithm of a ratio of squares is clipped to this in a feature.
inline constexpr float kLogRatioMax = 4;

// The most that a step's decay may take off a parameter.
inline constexpr double kShrinkMax = 0.1;

// Bounds of what is decoded: logs of the weights of memories, of kappa - 1 and of the decay.
inline constexpr float kSharpRange = 2;
inline constexpr float kFastRange = 2;
inline constexpr float kSlowRange = 1;
inline constexpr float kGrowthRange = 2;
inline constexpr float kDecayRange = 2.5F;
inline constexpr float kLogGainRange = 1.38629436F;  // log 4

// How the memory in time is written; metatrain's temporal.py has the equations.
enum class MnemosyneWriteRule : uint8_t {
  kAdditive,
  kDelta,
  kRecurrentDelta,  // Queries, keys, values and strengths see what was read at the step before.
};

struct MnemosyneSizes {
  size_t cell_size = 0;    // Coordinates of a cell.
  size_t chunk_cells = 0;  // Most cells of a chunk.

  size_t cell_width = 0;     // w: of a cell's token.
  size_t key_width = 0;      // Of queries and keys, everywhere, without positions.
  size_t positional = 0;     // Of what is appended to queries and keys of cells.
  FeatureMapSizes cell_map;  // Of the attention among cells: key_width + positional inputs.
  size_t cell_hidden = 0;    // Of the cells' perceptron.

  size_t token_width = 0;      // W: of a chunk's token.
  size_t memory_heads = 0;     // J: discounts of the memory in time.
  FeatureMapSizes memory_map;  // Of each of them: key_width inputs, M features.
  size_t memory_width = 0;     // D: of values, in time and among chunks.
  MnemosyneWriteRule write_rule = MnemosyneWriteRule::kAdditive;

  FeatureMapSizes context_map;  // Of the attention among chunks: key_width inputs, M' features.
  size_t hidden = 0;            // Of the decoder.
};

// Inputs of the decoder: the token, what is read of the memory, and the two contexts.
MNEMOSYNE_ANYWHERE static inline size_t DecoderInputCount(const MnemosyneSizes& sizes) {
  return sizes.token_width + (sizes.memory_heads + 2) * sizes.memory_width;
}

// Numbers of a chunk that the memory in time keeps beside N: Psi [J, M] of the additive rule, what
// was read last [J, D] of the recurrent one.
MNEMOSYNE_ANYWHERE static inline size_t MemoryMassCount(const MnemosyneSizes& sizes) {
  switch (sizes.write_rule) {
    case MnemosyneWriteRule::kAdditive:
      return sizes.memory_heads * sizes.memory_map.features;
    case MnemosyneWriteRule::kRecurrentDelta:
      return sizes.memory_heads * sizes.memory_width;
    case MnemosyneWriteRule::kDelta:
      break;
  }
  return 0;
}

// What the last read-out of a recurrent rule is mapped to: query, key, value and write strengths.
MNEMOSYNE_ANYWHERE static inline size_t RecurrentOutputCount(const MnemosyneSizes& sizes) {
  return 2 * sizes.key_width + sizes.memory_width + sizes.memory_heads;
}

// Numbers of a contents of the attention among chunks, [M', D + 1]: N, with Psi as its last column.
MNEMOSYNE_ANYWHERE static inline size_t ContextContentCount(const MnemosyneSizes& sizes) {
  return sizes.context_map.features * (sizes.memory_width + 1);
}

// Rows of weights are padded with zeros to this many columns or a multiple of it.
inline constexpr size_t kWeightColumns = 16;

// Columns of a row of `count` weights.
MNEMOSYNE_ANYWHERE static inline size_t PaddedColumns(size_t count) {
  return (count + kWeightColumns - 1) / kWeightColumns * kWeightColumns;
}

// x W + b.
struct DenseWeights {
  const float* w = nullptr;  // [inputs, PaddedColumns(outputs)]
  const float* b = nullptr;  // [PaddedColumns(outputs)]
};

// Weights of a feature map: see FeatureMapArgs.
struct MapWeights {
  const float* w = nullptr;  // [inputs, PaddedColumns(ProjectionCount)]
  const float* b = nullptr;  // [PaddedColumns(features)], or null.
};

// Products of maps that follow each other without a bend between them, so that they cost one map;
// FoldMaps in mnemosyne_fold.h makes them. A token of a cell is t before the perceptron, whose
// hidden row is h.
struct MnemosyneFolds {
  DenseWeights cell_values;  // [w, w]: the values of cell_heads, then merge without its bias.
  DenseWeights cell_gain;    // [w + cell_hidden, 1]: of (t, h): contract, then gain.
  DenseWeights pool;         // [w + cell_hidden + 25, W]: the same of pool.
};

// All weights, on the device.
struct MnemosyneWeights {
  DenseWeights embed;       // [11, w]
  DenseWeights cell_heads;  // [w, 2 key_width + w]
  MapWeights cell_map;
  DenseWeights merge;         // [w, w]
  DenseWeights expand;        // [w, cell_hidden]
  DenseWeights contract;      // [cell_hidden, w]
  DenseWeights pool;          // [w + 25, W]
  DenseWeights memory_heads;  // [W, 2 key_width + D]
  MapWeights memory_maps[kMnemosyneHeadsMax];
  float discounts[kMnemosyneHeadsMax] = {};  // lambda of each head.
  DenseWeights memory_strengths;             // [W, J]: of the delta rules.
  const float* recurrent = nullptr;          // [J D, PaddedColumns(RecurrentOutputCount)]
  DenseWeights context_heads;                // [W, 2 (2 key_width + D)]: same tensor, then all.
  MapWeights context_map;
  DenseWeights decoder_hidden;  // [DecoderInputCount, hidden]
  DenseWeights decision;        // [hidden, 6]
  DenseWeights gain;            // [w, 1]
  MnemosyneFolds folds;
};

// Numbers of the weights' file that enter the arithmetic; metatrain's config.py describes them.
struct MnemosyneKnobs {
  float gate_level1 = 1;
  float gate_flt = 1;
  float gate_level2 = 1;
  float gate_across = 1;
  float gate_cam = 1;
  float gate_cell_gain = 1;
  float gate_mixture = 1;
  float gate_growth = 1;
  float gate_decay = 1;
  float sharp_weight = 0;
  float fast_weight = 0;
  float slow_weight = 0;
  float growth = 0;
  float decay = 0;
  float write_limit = 1;
  float eta_rise = 0;
  float smoothing = 1;
  float eta_low = -1;
  float eta_high = 1;
  float guard_share = 0;
  float epsilon = 0;
};

// What the ops need of a model.
struct MnemosyneModel {
  MnemosyneSizes sizes;
  MnemosyneKnobs knobs;
  MnemosyneWeights weights;
};

// A chunk's place.
struct MnemosyneChunk {
  size_t offset;      // Of its first coordinate in the arenas.
  size_t first_cell;  // Of all cells of the session.
  uint32_t count;     // Coordinates.
  uint32_t cells;     // The last one may be partly filled.
};

// A parameter's place.
struct MnemosyneTensor {
  size_t first_chunk;
  size_t chunk_count;
  size_t count;      // Coordinates.
  float prior_step;  // Step size at a zero decoder.
  float decays;      // 1 for a matrix, whose weights may decay, else 0.
};

// What a step says of a parameter that takes part.
struct MnemosyneTensorStep {
  float gradient_scale = 1;  // Clipping, and the sign.
  float rate_fast = 1;       // 1 / Psi of r1
  float rate_square = 1;     // 1 / Psi of s
  float age = 1;             // Steps that r2 has seen, up to a limit; this one included.
  float fall = 1;            // How much less w0 and w1 are at this age.
  float warm = 1;            // Share of the step size at this age.
  uint64_t clock = 1;        // Steps that the parameter has seen, this one included.
  float limit = 0;           // Most rms of an update; infinity for none.
  float level = 0;           // Share of the guard's Adam in the update.
  float conditions[kConditionCount] = {};
};

// What a chunk has decided: part of the state. From `floor` on it is what the last update was made
// with, so that it can be made again.
struct MnemosyneChoice {
  float log_step;      // Log step size over its prior.
  float log_sharp;     // Log weights over their priors, of this step's direction,
  float log_fast;      // of r1,
  float log_slow;      // of r2.
  float mean_square;   // Mean of s.
  float shrink;        // What the next step takes off the parameter for this chunk's sake.
  float floor;         // Added to the root of s.
  float sharp_scale;   // Of the direction g / root(s), whose rms is bounded.
  float weight_sharp;  // w0
  float weight_fast;   // w1
  float weight_slow;   // w2
  float step;          // Step size.
  float level;         // Share of the guard's Adam.
  float cap;           // Factor of the guard's cap.
};
inline constexpr size_t kChoiceCount = sizeof(MnemosyneChoice) / sizeof(float);

// One chunk with all that its step reads and writes; pointers are to what is its own.
struct MnemosyneChunkStep {
  const MnemosyneChunk* chunk;
  const MnemosyneTensor* tensor;
  const MnemosyneTensorStep* step;
  float* values;   // [count]: gradients in, updates out.
  float* fast;     // [count]: r1
  float* square;   // [count]: s
  float* slow;     // [count]: r2
  float* token;    // [W]
  float* content;  // [J, M, D]
  float* mass;     // [MemoryMassCount]
  float* gains;    // [cells]
  MnemosyneChoice* choice;
  const float* positions;                       // [2, positional, cells]: of queries, then of keys.
  float tensor_mean_square;                     // Mean of s over the tensor, before this step.
  const float* context_query;                   // [2, M']
  const float* context_contents;                // [M', D + 1]: of the chunk's tensor.
  const float* context_all;                     // [M', D + 1]: of all chunks.
  const MnemosyneRounding* rounding = nullptr;  // Of a state of 16 bits.
};

}  // namespace mnemosyne::kernels
