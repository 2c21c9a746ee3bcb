// Sizes of FLT attention, as plain structs for files that include no C++ library.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/row_sizes.h"

namespace mnemosyne::kernels {

// Bounds of one call.
inline constexpr size_t kFltDimMax = 128;      // D and Dv: of a head.
inline constexpr size_t kFltFeatureMax = 256;  // M
inline constexpr size_t kFltWaveMax = 128;     // r
inline constexpr size_t kFltPositionMax = 3;   // l
inline constexpr size_t kFltLengthMax = size_t{1} << 24;
inline constexpr size_t kFltInputMax = kFltDimMax + 2 * kFltWaveMax;  // D + 2 r
inline constexpr float kFltPositionLimit = 1e9F;  // Of a coordinate's magnitude.

// How a mask f of offsets enters attention.
enum class MaskForm : uint8_t {
  kAdditive,        // exp(s q . k + f(r_i - r_j)): waves are appended to q and k.
  kMultiplicative,  // K(q, k) T(r_i - r_j), T = constant + f: features times waves (Khatri-Rao).
};

struct FltSizes {
  size_t heads = 0;      // H
  size_t dim = 0;        // D: of a query and key.
  size_t value_dim = 0;  // Dv
  size_t positions = 0;  // l: coordinates of a position; 0 without waves.
  size_t waves = 0;      // r
  MaskForm form = MaskForm::kAdditive;
  FeatureMapSizes map;  // E inputs and M features.
};

// E: inputs of the feature map.
static inline size_t FltInputCount(const FltSizes& sizes) {
  return sizes.dim + (sizes.form == MaskForm::kAdditive ? 2 * sizes.waves : 0);
}

// F: numbers that the multiplicative form has for a position, the first of which is the constant's.
static inline size_t FltMaskCount(const FltSizes& sizes) {
  return 1 + (sizes.form == MaskForm::kMultiplicative ? 2 * sizes.waves : 0);
}

// Whether features are exponentials, which are kept as logarithms until a maximum is known.
static inline bool IsExponential(FeatureMapShape shape) {
  return shape == FeatureMapShape::kExponential || shape == FeatureMapShape::kHyperbolic;
}

// Numbers of the running state of a head: see FltAttentionArgs.
static inline size_t FltStateCount(const FltSizes& sizes) {
  const size_t features = sizes.map.features;
  return features + FltMaskCount(sizes) * features * (1 + sizes.value_dim) + sizes.positions;
}

// The maximum over no keys; its exponential is 0 beside that of any number.
inline constexpr float kFltNoKey = -1e30F;

}  // namespace mnemosyne::kernels
