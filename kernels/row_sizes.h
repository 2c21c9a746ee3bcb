// Sizes of the ops over rows, as plain structs for files that include no C++ library.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace mnemosyne::kernels {

// Bounds: what an op keeps of one group or memory fits a core's nearest cache, and a GPU's shared
// memory.
inline constexpr size_t kRowWidthMax = 1024;     // Inputs and outputs of a dense layer.
inline constexpr size_t kFeatureCountMax = 128;  // M: features of a key or query.
inline constexpr size_t kValueWidthMax = 64;     // D: width of a value.

// Denominators of at most this magnitude answer 0.
inline constexpr float kDenominatorMin = 1e-12F;

enum class Activation : uint8_t { kNone, kTanh, kRelu, kSigmoid };

// y = f(x W + b), or y <- y + x W.
struct DenseSizes {
  size_t inputs = 0;   // 1 to kRowWidthMax
  size_t outputs = 0;  // 1 to kRowWidthMax
  Activation activation = Activation::kNone;
  bool accumulate = false;  // Adds to y, without bias and activation.
};

// The shapes of feature maps; what distinguishes FAVOR+ from FAVOR++ is in the weights.
enum class FeatureMapShape : uint8_t {
  kExponential,  // scale exp(x W + b - |x|^2 / 2)
  kHyperbolic,   // scale exp(+-x W - |x|^2 / 2), first all +, then all -
  kRelu,         // scale max(x W, 0) + epsilon
  kElu,          // x + 1 above 0, exp(x) below; no weights
  kDpfp,         // with r = (max(x, 0), max(-x, 0)): r_k r_(k - i), for i from 1; no weights
};

struct FeatureMapSizes {
  FeatureMapShape shape = FeatureMapShape::kExponential;
  size_t inputs = 0;    // d: 1 to kFeatureCountMax
  size_t features = 0;  // M: 1 to kFeatureCountMax; even for kHyperbolic, d for kElu, a multiple of
                        // 2 d for kDpfp.
  float scale = 1;
  float epsilon = 0;
};

// Columns of W: what comes out of the projection.
static inline size_t ProjectionCount(const FeatureMapSizes& sizes) {
  switch (sizes.shape) {
    case FeatureMapShape::kHyperbolic:
      return sizes.features / 2;
    case FeatureMapShape::kElu:
    case FeatureMapShape::kDpfp:
      return 0;
    default:
      return sizes.features;
  }
}

struct AttentionSizes {
  size_t features = 0;  // M: 1 to kFeatureCountMax
  size_t width = 0;     // D: 1 to kValueWidthMax
};

// Rows of numbers, each `stride` after the one before: so that an op can work on some columns.
struct RowsIn {
  const float* data = nullptr;
  size_t stride = 0;
};
struct RowsOut {
  float* data = nullptr;
  size_t stride = 0;
};

}  // namespace mnemosyne::kernels
