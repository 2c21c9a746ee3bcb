// What the flagship's program for the shipped sizes is written for: the sizes, the weights that a
// block shares, and what the warps that step a chunk have in common.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/device_functions.h"
#include "kernels/mnemosyne_sizes.h"

namespace mnemosyne::kernels::cuda {

// 32 cells of 128 coordinates: a warp has four cells, and a lane four coordinates of each; where
// cells are decided on, a lane has a cell.
struct TeamSizes {
  static constexpr int kWarps = 8, kWarpCells = 4;
  static constexpr int kCell = 128, kCells = kWarps * kWarpCells, kCoordinates = kCells * kCell;
  static constexpr int kWidth = 8, kKey = 8, kPositional = 4, kFeatures = 8, kHidden = 8;
  static constexpr int kToken = 32, kHeads = 2, kMemoryFeatures = 8, kMemoryWidth = 16;
  static constexpr int kContextFeatures = 8, kDecoderHidden = 32;
  static constexpr int kPoolInputs = kWidth + kHidden + static_cast<int>(kChunkFeatureCount);
  static constexpr int kDecoderInputs = kToken + (kHeads + 2) * kMemoryWidth;

  // Whether a model has them.
  static inline bool Fit(const MnemosyneSizes& s) {
    const auto is = [](size_t size, int expected) { return size == static_cast<size_t>(expected); };
    const auto plain = [](const FeatureMapSizes& map) {
      return map.shape == FeatureMapShape::kExponential;
    };
    return s.write_rule == MnemosyneWriteRule::kAdditive && is(s.cell_size, kCell) &&
           is(s.chunk_cells, kCells) && is(s.cell_width, kWidth) && is(s.key_width, kKey) &&
           is(s.positional, kPositional) && is(s.cell_hidden, kHidden) &&
           is(s.cell_map.features, kFeatures) && is(s.token_width, kToken) &&
           is(s.memory_heads, kHeads) && is(s.memory_map.features, kMemoryFeatures) &&
           is(s.memory_width, kMemoryWidth) && is(s.context_map.features, kContextFeatures) &&
           is(s.hidden, kDecoderHidden) && plain(s.cell_map) && plain(s.memory_map) &&
           plain(s.context_map);
  }
};

// Where the weights lie that the warps of a block share, in floats; a map's bias is its last row.
struct TeamWeights {
  using S = TeamSizes;
  static constexpr int kEmbed = 0;                                           // [12, 8]
  static constexpr int kHeads = kEmbed + 12 * S::kWidth;                     // [9, 16]
  static constexpr int kMap = kHeads + 9 * 16;                               // [13, 8]
  static constexpr int kValues = kMap + 13 * 8;                              // [9, 8]
  static constexpr int kMerge = kValues + 9 * 8;                             // [8]: the bias.
  static constexpr int kExpand = kMerge + 8;                                 // [9, 8]
  static constexpr int kGain = kExpand + 9 * 8;                              // [17], padded.
  static constexpr int kPool = kGain + 20;                                   // [42, 32]
  static constexpr int kMemoryHeads = kPool + (S::kPoolInputs + 1) * 32;     // [33, 32]
  static constexpr int kMemoryMaps = kMemoryHeads + 33 * 32;                 // [9, 2, 8]
  static constexpr int kDecoder = kMemoryMaps + 9 * 16;                      // [97, 32]
  static constexpr int kDecision = kDecoder + (S::kDecoderInputs + 1) * 32;  // [33, 8]
  static constexpr int kCount = kDecision + 33 * 8;

  // Copies the weights to `to` [kCount]; the caller is thread `thread` of `threads`, and the copy
  // is complete when all have returned.
  static MNEMOSYNE_DEVICE void Stage(const MnemosyneWeights& w, float* to, int thread,
                                     int threads) {
    const auto rows = [&](int place, const float* from, int count, int columns, int stride) {
      for (int i = thread; i < count * columns; i += threads) {
        to[place + i] = from == nullptr ? 0.0F : from[i / columns * stride + i % columns];
      }
    };
    const auto map = [&](int place, const DenseWeights& from, int inputs, int columns, int stride) {
      rows(place, from.w, inputs, columns, stride);
      rows(place + inputs * columns, from.b, 1, columns, stride);
    };
    map(kEmbed, w.embed, 11, 8, 16);
    map(kHeads, w.cell_heads, 8, 16, 32);
    map(kMap, {w.cell_map.w, w.cell_map.b}, 12, 8, 16);
    map(kValues, w.folds.cell_values, 8, 8, 16);
    rows(kMerge, w.merge.b, 1, 8, 16);
    map(kExpand, w.expand, 8, 8, 16);
    map(kGain, w.folds.cell_gain, 16, 1, 16);
    map(kPool, w.folds.pool, S::kPoolInputs, 32, 32);
    map(kMemoryHeads, w.memory_heads, 32, 32, 32);
    for (int head = 0; head < S::kHeads; ++head) {
      for (int i = 0; i < 9; ++i) {
        const float* const from = i < 8 ? w.memory_maps[head].w + i * 16 : w.memory_maps[head].b;
        rows(kMemoryMaps + i * 16 + head * 8, from, 1, 8, 8);
      }
    }
    map(kDecoder, w.decoder_hidden, S::kDecoderInputs, 32, 32);
    for (int i = 0; i < 33; ++i) {
      rows(kDecision + i * 8, i < 32 ? w.decision.w + i * 16 : w.decision.b, 1, 8, 8);
    }
  }
};

// Memories as they are before the step: r2 in 32 bits, or r1 and r2 in 16.
union alignas(16) TeamKept {
  float slow[TeamSizes::kCoordinates];
  uint16_t halves[2][TeamSizes::kCoordinates];
};

// What the warps that step a chunk have in common.
struct alignas(16) TeamScratch {
  static constexpr int kRow = 12;  // Floats of a cell's row: no two of 8 lanes share a bank.

  float sums[TeamSizes::kCells * kRow];  // As CellSum has them.
  float keys[TeamSizes::kCells * kRow];
  float queries[TeamSizes::kCells * kRow];
  float rows[TeamSizes::kCells * kRow];
  float content[64];  // [8, 8]
  float mass[8];
  float pool_inputs[44];     // 41 count.
  float decoder_inputs[96];  // Token, memory, contexts.
  float hidden[32];          // Of the decoder, as far as the memory has no part in it.
  float memory[256 + 16];    // Contents and masses before the step.
  float gains[TeamSizes::kCells];
  TeamKept kept;
  float maxima[TeamSizes::kWarps];    // Of s.
  float inverse_scale;                // Of the roots of s, in a state of 16 bits.
  double parts[TeamSizes::kWarps];    // Sums of the squares of the update before its bound,
  double bounded[TeamSizes::kWarps];  // and after it.
  MnemosyneChoice next;               // What is decided in this step.
  float growth;                       // kappa
};

// What a team is told of a model besides its weights.
struct TeamModel {
  MnemosyneKnobs knobs;
  float cell_scale, memory_scale;  // Of the feature maps.
  float discounts[TeamSizes::kHeads];

  static inline TeamModel Of(const MnemosyneModel& model) {
    return {model.knobs,
            model.sizes.cell_map.scale,
            model.sizes.memory_map.scale,
            {model.weights.discounts[0], model.weights.discounts[1]}};
  }
};

}  // namespace mnemosyne::kernels::cuda
