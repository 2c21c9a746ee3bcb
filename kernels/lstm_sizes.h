// What the LSTM step is made of, as plain structs for files that include no C++ library.
//
// Weights are one array of float32. With H hidden units, one after the other:
//
//   input layer, if normalized, for each unit u:  weight of feature 0, weight of feature 1, bias
//   each layer, for each unit u:                  4 biases, then for each of its inputs 4 weights
//   read-out:                                     H weights, bias
//
// where the four are the gates in the order enter, keep, leave, value, and the inputs of a layer
// are what the layer below gives (the 2 features, or H numbers), then its own H of the step before.
//
// States of hidden and cell values have S = layers H numbers for each element, in tiles of 16
// elements from the start of a segment: a tile of w elements (16, or what is left at the end) holds
// for each layer and each unit the w numbers of its elements.
#pragma once

#include <stddef.h>

namespace mnemosyne::kernels {

inline constexpr size_t kLstmHiddenMax = 64;
inline constexpr size_t kLstmLayersMax = 4;
inline constexpr size_t kLstmTile = 16;

struct LstmSizes {
  size_t layers = 0;  // 1 to kLstmLayersMax
  size_t hidden = 0;  // H: 1 to kLstmHiddenMax
  // Whether features and read-out are those of RNNProp (arXiv:1703.03633) rather than those of
  // Andrychowicz et al. (arXiv:1606.04474).
  bool normalized = false;
};

// The functions are static: a file compiled for one instruction set keeps its copies to itself.

// Numbers that come into the first layer.
static inline size_t LstmFeatureCount(const LstmSizes& sizes) {
  return sizes.normalized ? sizes.hidden : 2;
}

// Numbers that come into layer `layer`: from below and from itself.
static inline size_t LstmInputCount(const LstmSizes& sizes, size_t layer) {
  return (layer == 0 ? LstmFeatureCount(sizes) : sizes.hidden) + sizes.hidden;
}

// Numbers of the hidden values of an element, and as many of its cell values.
static inline size_t LstmStateCount(const LstmSizes& sizes) { return sizes.layers * sizes.hidden; }

// Numbers of all weights.
static inline size_t LstmWeightCount(const LstmSizes& sizes) {
  size_t count = sizes.normalized ? 3 * sizes.hidden : 0;
  for (size_t layer = 0; layer < sizes.layers; ++layer) {
    count += 4 * sizes.hidden * (1 + LstmInputCount(sizes, layer));
  }
  return count + sizes.hidden + 1;
}

// Numbers of one segment.
struct LstmCoefficients {
  float gradient_scale = 1;  // Negative to climb.
  float mass = 1;            // M below.
  float output_scale = 0;
};

// One step of an element with gradient g. Its magnitude counts as 1e18 at most, so that its square
// is finite.
//
//   d = gradient_scale g
//   if normalized:
//     mean   <- mean + (d - mean) / M,   square <- square + (d d - square) / M
//     M = 1 + 0.95 + 0.95^2 + ..., as many terms as steps
//     x = elu(input layer of (d / r, mean / r)),   r = sqrt(square) + 1e-12
//   else
//     x = (log|d| / 10, sign d) if |d| >= exp(-10), else (-1, exp(10) d)
//   each layer:
//     (enter, keep, leave, value) = W (x, hidden) + b
//     cell   <- sigmoid(keep) cell + sigmoid(enter) tanh(value)
//     hidden <- sigmoid(leave) tanh(cell),   x = hidden
//   o = read-out of x; tanh of it if normalized
//   u = -output_scale o
inline constexpr float kLstmGradientMax = 1e18F;
inline constexpr float kLstmRootEpsilon = 1e-12F;
inline constexpr float kLstmLogSpan = 10;
inline constexpr float kLstmSmall = 4.539992976e-05F;    // exp(-10)
inline constexpr float kLstmSmallScale = 22026.465795F;  // exp(10)

}  // namespace mnemosyne::kernels
