// Sizes, weights and coefficients of the coordinate-wise optimizer's op, as plain structs for files
// that include no C++ library. metatrain's optimizers/coordinate/ specifies it.
//
// Weights are one array of float32, each matrix [inputs, outputs] followed by its bias:
//
//   heads          [kCoordinateFeatureCount, 2 K + D], [2 K + D]: query, key, value
//   map of a head  [K, PaddedColumns(ProjectionCount(map))], and [M] if map_bias; J times
//   hidden         [kCoordinateFeatureCount + J D, H], without a bias: that is in `told`
//   decision       [H, kCoordinateDecisionCount], [kCoordinateDecisionCount]
//
// Memories have J M D and J M numbers for each coordinate, in tiles of 16 coordinates from the
// start of a segment: a tile of w coordinates (16, or what is left at the end) holds for each
// number the w of its coordinates.
#pragma once

#include <stddef.h>

#include "kernels/mnemosyne_sizes.h"
#include "kernels/row_sizes.h"

namespace mnemosyne::kernels {

// Bounds.
inline constexpr size_t kCoordinateHeadsMax = 8;    // J
inline constexpr size_t kCoordinateWidthMax = 32;   // K, D and M
inline constexpr size_t kCoordinateHiddenMax = 64;  // H
inline constexpr size_t kCoordinateRankMax = 8;

inline constexpr size_t kCoordinateTile = 16;
inline constexpr size_t kCoordinateFeatureCount = 10;
inline constexpr size_t kCoordinateDirectionCount = 4;
inline constexpr size_t kCoordinateDecisionCount = 1 + kCoordinateDirectionCount;

struct CoordinateSizes {
  size_t key_width = 0;    // K: of queries and keys.
  size_t value_width = 0;  // D
  size_t heads = 0;        // J: discounts of the memory.
  FeatureMapSizes map;     // Of each of them: K inputs, M features.
  bool map_bias = false;   // Whether the maps have a bias.
  size_t hidden = 0;       // H
};

// The functions are static: a file compiled for one instruction set keeps its copies to itself.

// Numbers that the map to queries, keys and values puts out.
static inline size_t CoordinateHeadWidth(const CoordinateSizes& sizes) {
  return 2 * sizes.key_width + sizes.value_width;
}

// Numbers of a coordinate's Psi, and of its N.
static inline size_t CoordinateMassCount(const CoordinateSizes& sizes) {
  return sizes.heads * sizes.map.features;
}
static inline size_t CoordinateContentCount(const CoordinateSizes& sizes) {
  return CoordinateMassCount(sizes) * sizes.value_width;
}

// Inputs of the hidden layer.
static inline size_t CoordinateInputCount(const CoordinateSizes& sizes) {
  return kCoordinateFeatureCount + sizes.heads * sizes.value_width;
}

// Numbers of one map's projection, padding included.
static inline size_t CoordinateProjectionCount(const CoordinateSizes& sizes) {
  return sizes.key_width * PaddedColumns(ProjectionCount(sizes.map));
}

// Numbers of all weights.
static inline size_t CoordinateWeightCount(const CoordinateSizes& sizes) {
  return (kCoordinateFeatureCount + 1) * CoordinateHeadWidth(sizes) +
         sizes.heads *
             (CoordinateProjectionCount(sizes) + (sizes.map_bias ? sizes.map.features : 0)) +
         CoordinateInputCount(sizes) * sizes.hidden + (sizes.hidden + 1) * kCoordinateDecisionCount;
}

// Numbers of the weights' file that enter the arithmetic; metatrain's config.py describes them.
struct CoordinateKnobs {
  float gate_cam = 1;
  float correction = 1;  // gate_correction * correction
  float eta_rise = 0;
  float eta_smoothing = 1;
  float eta_low = -1;
  float eta_high = 1;
  float eta_temper = 1;
  float epsilon = 0;
};

// What the op needs of a model.
struct CoordinateModel {
  CoordinateSizes sizes;
  CoordinateKnobs knobs;
  float discounts[kCoordinateHeadsMax] = {};  // lambda_j
};

// Numbers of one segment, which is a whole tensor: its means say what is usual in it.
struct CoordinateTensor {
  float gradient_scale = 1;  // Clipping; negative to climb.
  float mass_fast = 1;       // Psi of r1: 1 + decay + decay^2 + ..., as many terms as steps,
  float mass_slow = 1;       // of r2,
  float mass_square = 1;     // and of s.
  float prior_step = 0;      // eta
  size_t rank = 0;           // Axes of the tensor.
  size_t shape[kCoordinateRankMax] = {};  // Their product is the segment's count.
};

// One step of a coordinate with gradient g:
//
//   d = gradient_scale g, at most 1e18 in magnitude
//   r1 <- r1 + (d - r1) / Psi_1,   r2 <- r2 + (d - r2) / Psi_2,   s <- s + (d d - s) / Psi_s
//   S = mean of s over the tensor,   q = s / S,   unit = sqrt(S); S up to 1e-36 counts as none:
//   then unit = 1, and features of q are 0
//   q^ = product over the axes of (mean of q over all other axes), 1 with fewer than two axes
//   root = sqrt(q) + epsilon, with q and q^ in [1e-12, 1e12]
//   a = r1 / unit / root,   e = d / unit / root,   o = r2 / unit / root,
//   f = r1 / unit / (sqrt(q^) + epsilon)
//   (d_1 .. d_4) = (a, e, o, f), each in [-4, 4]
//   x = (h(e e), sign d, d_1 / 2 .. d_4 / 2, e a in [-4, 4], h(q), h(q^), l / 4)
//   with h(y) = log(y) / 4 in [-2, 2], and l the log step size before this step
//   (query, key, v) = W x + b, with query and key divided by sqrt(1 + |.|^2)
//   N_j <- lambda_j N_j + phi_j(key) v^T,   Psi_j <- lambda_j Psi_j + phi_j(key)
//   y_j = phi_j(query)^T N_j / phi_j(query)^T Psi_j, 0 where the denominator is
//   z = tanh(W (x, gate_cam y) + told),   (c_0 .. c_4) = W z + b
//   t = eta_temper bend(2 c_0),   bend(c) = -eta_low tanh(c / -eta_low) below 0,
//   eta_high tanh(c / eta_high) above
//   l <- l + min(eta_smoothing (t - l), eta_rise)
//   u = -eta exp(l) (a + sum_i correction tanh(c_i) d_i)
inline constexpr float kCoordinateGradientMax = 1e18F;
inline constexpr float kCoordinateSquareMin = 1e-36F;
inline constexpr float kCoordinateRatioMin = 1e-12F;
inline constexpr float kCoordinateRatioMax = 1e12F;
inline constexpr float kCoordinateDirectionMax = 4;
inline constexpr float kCoordinateLogSquareMin = 3.354626279e-4F;  // exp(-8)
inline constexpr float kCoordinateLogSquareMax = 2980.957987F;     // exp(8)

// Some coordinates of a tensor with all that their step reads and writes; the first one starts a
// tile.
struct CoordinateRun {
  const CoordinateTensor* tensor;
  float mean_square;  // S
  size_t count;
  const float* told;      // [H]
  const float* factored;  // [count]: q^
  float* values;          // [count]: gradients in, updates out.
  float* fast;            // [count]: r1
  float* slow;            // [count]: r2
  float* square;          // [count]: s
  float* log_step;        // [count]: l
  float* update;          // [count]: u
  float* content;         // N, tile by tile.
  float* mass;            // Psi, tile by tile.
};

}  // namespace mnemosyne::kernels
