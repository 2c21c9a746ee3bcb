// The scratch of a block of threads that attends with FLT.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

// Where the pieces of a block's scratch lie, in floats.
struct FltScratchLayout {
  uint32_t x, keys, queries, values, above, weights, key_masks, query_masks;
  uint32_t stabilizers, halves, plain, rises, maxima, factors, origin;
  uint32_t end = 0;

  MNEMOSYNE_ANYWHERE FltScratchLayout(const FltShape& s, uint32_t rows) {
    const uint32_t masks = s.masks > 1 ? s.masks : 0;
    x = Take(rows * s.inputs);
    keys = Take(rows * s.features);
    queries = Take(rows * s.features);
    values = Take(rows * s.values);
    above = Take(rows * (s.values + 1));
    weights = Take(rows * rows);
    key_masks = Take(rows * masks);
    query_masks = Take(rows * masks);
    stabilizers = Take(rows);
    halves = Take(rows);
    plain = Take(rows);
    rises = Take(rows);
    maxima = Take(s.features);
    factors = Take(s.features);
    origin = Take(s.waves);
  }

  // Rows of a tile, so that the scratch fits the shared memory of any GPU that is served.
  static uint32_t TileRows(const FltShape& s) {
    uint32_t rows = 64;
    while (rows > 8 && FltScratchLayout(s, rows).end * sizeof(float) > kBytesMax) rows /= 2;
    return rows;
  }

 private:
  static constexpr size_t kBytesMax = 56 * 1024;

  MNEMOSYNE_ANYWHERE uint32_t Take(uint32_t count) {
    const uint32_t start = end;
    end += (count + 3) / 4 * 4;
    return start;
  }
};

}  // namespace mnemosyne::kernels::cuda
