// The units that FLT attention is cut into: sequences of one head.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/cpu/flt_tile.h"

namespace mnemosyne::kernels::cpu {

// The sequences of all batch entries and heads, in order; empty ones are left out.
inline std::vector<FltSpan> FltUnits(const FltSizes& sizes, const FltRows& rows) {
  std::vector<FltSpan> units;
  const size_t one[] = {0, rows.length};
  const std::span<const size_t> starts = rows.sequence_starts.empty() ? one : rows.sequence_starts;
  for (size_t batch = 0; batch < rows.batch; ++batch) {
    for (size_t head = 0; head < sizes.heads; ++head) {
      for (size_t s = 0; s + 1 < starts.size(); ++s) {
        if (starts[s + 1] == starts[s]) continue;
        const size_t entry = rows.positions_per_batch ? batch : 0;
        const float* const origin =
            sizes.waves == 0 ? nullptr
                             : rows.positions + (entry * rows.length + starts[s]) * sizes.positions;
        units.push_back({batch, head, starts[s], starts[s + 1] - starts[s], origin});
      }
    }
  }
  return units;
}

// Calls work(tile) with the tiles of `span`, first to last or last to first.
template <typename Work>
void ForEachTile(const FltSpan& span, size_t tile_rows, bool backwards, const Work& work) {
  const size_t tiles = (span.count + tile_rows - 1) / tile_rows;
  for (size_t i = 0; i < tiles; ++i) {
    const size_t at = (backwards ? tiles - 1 - i : i) * tile_rows;
    const size_t count = span.count - at < tile_rows ? span.count - at : tile_rows;
    work(FltSpan{span.batch, span.head, span.first + at, count, span.origin});
  }
}

// Rows of a tile: the products within a causal tile cost more the longer it is, the trips of the
// sums, which are long in the multiplicative form, the shorter it is.
inline size_t FltTileRows(const FltSizes& sizes, bool causal) {
  return causal && FltMaskCount(sizes) == 1 ? kFltTileMax / 2 : kFltTileMax;
}

// This thread's scratch memory.
inline FltScratch& ThreadScratch() {
  thread_local FltScratch scratch;
  return scratch;
}

}  // namespace mnemosyne::kernels::cpu
