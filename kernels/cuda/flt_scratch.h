// The scratch of a block of threads that attends with FLT, or differentiates it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

// Floats from row to row of a matrix of `columns`: 4 more than a multiple of 8, so that threads
// that read a column meet different banks.
MNEMOSYNE_ANYWHERE inline uint32_t FltStride(uint32_t columns) {
  return (columns + 3) / 4 * 4 | 4U;
}

// Threads that form one of few sums.
inline constexpr uint32_t kPartials = 4;

// Where the pieces of a tile lie, in floats, and the strides of its matrices.
struct FltTilePlaces {
  uint32_t x, keys, queries, values, key_masks, query_masks;
  uint32_t halves, rises, maxima, factors, origin;
  uint32_t partial, partial_count;  // Parts of as many sums.
  uint32_t x_stride, feature_stride, value_stride;
  uint32_t end = 0;

 protected:
  MNEMOSYNE_ANYWHERE explicit FltTilePlaces(const FltShape& s)
      : x_stride(FltStride(s.inputs)),
        feature_stride(FltStride(s.features)),
        value_stride(FltStride(s.values)) {}

  MNEMOSYNE_ANYWHERE uint32_t Take(uint32_t count) {
    const uint32_t start = end;
    end += (count + 3) / 4 * 4;
    return start;
  }
  MNEMOSYNE_ANYWHERE void TakeRows(const FltShape& s, uint32_t rows) {
    halves = Take(rows);
    rises = Take(rows);
    maxima = Take(s.features);
    factors = Take(s.features);
    origin = Take(s.waves);
    partial_count = rows > s.features ? rows : s.features;
    partial = Take(kPartials * partial_count);
  }
};

// Of the forward pass.
struct FltScratchLayout : FltTilePlaces {
  uint32_t above, weights, stabilizers, plain;

  MNEMOSYNE_ANYWHERE FltScratchLayout(const FltShape& s, uint32_t rows) : FltTilePlaces(s) {
    const uint32_t masks = s.masks > 1 ? s.masks : 0;
    x = Take(rows * x_stride);
    keys = Take(rows * feature_stride);
    queries = Take(rows * feature_stride);
    values = Take(rows * value_stride);
    above = Take(rows * (s.values + 1));
    weights = Take(rows * rows);
    key_masks = Take(rows * masks);
    query_masks = Take(rows * masks);
    stabilizers = Take(rows);
    plain = Take(rows);
    TakeRows(s, rows);
  }

  // Rows of a tile, so that the scratch fits the shared memory of any GPU that is served.
  static uint32_t TileRows(const FltShape& s) {
    uint32_t rows = 64;
    while (rows > 8 && FltScratchLayout(s, rows).end * sizeof(float) > kBytesMax) rows /= 2;
    return rows;
  }

 private:
  static constexpr size_t kBytesMax = 56 * 1024;
};

// Of the backward pass. Passes that are not causal have one side at a time in memory.
struct FltBackScratchLayout : FltTilePlaces {
  // Matrices of tiles: features as sums read them, their gradients, those of one wave of the
  // multiplicative form, g^, gradients of waves of that form, and three of pairs of rows.
  uint32_t active, gradient, part, upstream, mask_gradient, pairs, kernel_gradient, pair_gradient;
  uint32_t pair_stride;
  // Of rows: 1 over denominators, stabilizers, e, and e of clamped rows.
  uint32_t inverses, stabilizers, weights, clamp_weights;
  // The sums that are read, where they are small: Psi [F, M], N [F, M, value_stride], and sums of
  // clamped rows [M].
  uint32_t sums, query_maxima;
  bool keeps_sums;
  // Whether gradients of features are multiplied with these as soon as they are known, so that
  // queries need no other place for features.
  bool multiplies_early;

  MNEMOSYNE_ANYWHERE FltBackScratchLayout(const FltShape& s, uint32_t rows, bool causal)
      : FltTilePlaces(s), pair_stride(FltStride(rows)) {
    const uint32_t masks = s.masks > 1 ? s.masks : 0;
    multiplies_early = s.exponential() && !causal && masks == 0;
    const bool others = (s.exponential() && !multiplies_early) || s.map == FeatureMapShape::kDpfp;
    x = Take(rows * x_stride);
    keys = Take(rows * feature_stride);
    queries = causal ? Take(rows * feature_stride) : keys;
    active = others ? Take(rows * feature_stride) : queries;
    gradient = Take(rows * feature_stride);
    part = Take(masks > 0 ? rows * feature_stride : 0);
    values = Take(rows * value_stride);
    upstream = causal ? Take(rows * value_stride) : values;
    key_masks = Take(rows * masks);
    query_masks = Take(rows * masks);
    mask_gradient = Take(rows * masks);
    const uint32_t square = causal ? rows * pair_stride : 0;
    pairs = Take(square);
    kernel_gradient = Take(square);
    pair_gradient = Take(masks > 0 ? square : 0);
    inverses = Take(rows);
    stabilizers = Take(rows);
    weights = Take(rows);
    clamp_weights = Take(rows);
    query_maxima = Take(s.features);
    const uint32_t count = SumsCount(s);
    keeps_sums = count <= kSumsMax;
    sums = Take(keeps_sums ? count : 0);
    TakeRows(s, rows);
  }

  MNEMOSYNE_ANYWHERE static uint32_t SumsCount(const FltShape& s) {
    return s.features * (s.masks * (1 + FltStride(s.values)) + 1);
  }

  static uint32_t TileRows(const FltShape& s, bool causal) {
    uint32_t rows = 64;
    while (rows > 8 && FltBackScratchLayout(s, rows, causal).end * sizeof(float) > kBytesMax) {
      rows /= 2;
    }
    return rows;
  }

 private:
  static constexpr size_t kBytesMax = 110 * 1024;
  static constexpr uint32_t kSumsMax = 9 * 1024;
};

}  // namespace mnemosyne::kernels::cuda
