// Level 2 of the flagship for a tile of chunks in a row of one parameter, as the program of a block
// of threads; see mnemosyne_block.h for `T`.
#pragma once

#include "kernels/cuda/mnemosyne_block.h"
#include "kernels/cuda/mnemosyne_tables.h"

namespace mnemosyne::kernels::cuda {

// Floats of a block's scratch.
MNEMOSYNE_ANYWHERE inline size_t ContextScratchCount(const MnemosyneSizes& s) {
  return kTileChunks * 2 * (2 * s.key_width + s.memory_width + s.context_map.features);
}

// Writes the queries of the tile's chunks, and to `contents` [2, M', D + 1] and `sums` what the
// tile adds to the contents and sums of its parameter, and of all.
template <class T>
MNEMOSYNE_DEVICE void ContextTile(const MnemosyneModel& model, const MnemosyneArrays& memory,
                                  const ChunkTile& tile, float* scratch, float* contents,
                                  TileSums* sums) {
  const MnemosyneSizes& sizes = model.sizes;
  const size_t key = sizes.key_width, width = sizes.memory_width;
  const size_t features = sizes.context_map.features;
  const size_t head_size = 2 * key + width, joined_size = 2 * head_size;
  float* const joined = scratch;
  float* const keys = scratch + kTileChunks * joined_size;  // [chunks, 2, M']
  T::ForEach(tile.count * joined_size, [&](size_t i) {
    const size_t c = i / joined_size, k = i % joined_size;
    const float* const token = memory.tokens + (tile.first_chunk + c) * sizes.token_width;
    joined[i] = OutputOf(model.weights.context_heads, token, sizes.token_width, joined_size, k);
  });
  // A thread's index is of (chunk, head, query or key, feature).
  T::ForEach(tile.count * 4 * features, [&](size_t i) {
    const size_t m = i % features, side = i / features % 2, head = i / features / 2 % 2;
    const size_t c = i / features / 4;
    float part[kMnemosyneWidthMax];
    BoundInto(joined + c * joined_size + head * head_size + side * key, key, part);
    const float phi = FeatureOf(sizes.context_map, model.weights.context_map, part, m);
    float* const to = side == 0 ? memory.context_queries + 2 * tile.first_chunk * features : keys;
    to[(2 * c + head) * features + m] = phi;
  });
  const size_t size = features * (width + 1);
  T::ForEach(2 * size + 1, [&](size_t i) {
    if (i == 2 * size) {
      TileSums all = {0, 0};
      for (size_t c = 0; c < tile.count; ++c) {
        const MnemosyneChoice& choice = memory.choices[tile.first_chunk + c];
        const double count = memory.chunks[tile.first_chunk + c].count;
        all.mean_square = fma(static_cast<double>(choice.mean_square), count, all.mean_square);
        all.shrink += static_cast<double>(choice.shrink);
      }
      *sums = all;
      return;
    }
    const size_t head = i / size, m = i % size / (width + 1), d = i % (width + 1);
    float sum = 0;
    for (size_t c = 0; c < tile.count; ++c) {
      const float* const from = joined + c * joined_size + head * head_size + 2 * key;
      sum = fmaf(keys[(2 * c + head) * features + m], d < width ? from[d] : 1.0F, sum);
    }
    contents[i] = sum;
  });
}

}  // namespace mnemosyne::kernels::cuda
