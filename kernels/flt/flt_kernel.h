// What FLT attention is given besides queries, keys and values: the feature map with its projection
// and the waves of its relative positional encoding, prepared once for many calls. docs/flt.md has
// the mathematics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/flt/flt_sizes.h"

namespace mnemosyne::kernels {

// Masks of H heads as waves: f_h(z) = sum_m Re(w_hm exp(2 pi i xi_hm . z)), in the multiplicative
// form plus a constant. rpe.h makes them of a spectrum's parameters.
struct FltWaves {
  size_t positions = 0;            // l
  size_t waves = 0;                // r
  std::vector<float> frequencies;  // [H, r, l]: xi, cycles per unit of position.
  std::vector<float> real;         // [H, r]: of w.
  std::vector<float> imaginary;    // [H, r]; all 0 for even masks.
  std::vector<float> constant;     // [H]; 0 in the additive form.

  // Whether T = constant + f is non-negative by construction: it is, too, where the constant is no
  // less than the sum of the magnitudes of the weights.
  bool never_negative = false;
};

struct FltConfig {
  size_t heads = 1;                        // H
  size_t dim = 64;                         // D: 1 to 128
  size_t value_dim = 64;                   // Dv: 1 to 128
  std::string feature_map = "favor_plus";  // See components/feature_map.h.
  size_t features = 64;                    // M: 1 to 256
  MaskForm form = MaskForm::kAdditive;
  float scale = 0;        // s of s q . k; 0 is 1 / sqrt(D).
  double square_sum = 2;  // Of favor_plus_plus.
  double epsilon = 1e-3;  // Of relu.

  // What happens to a multiplicative mask that may be negative: it is refused, or denominators are
  // held above kFltClampShare of their bound and the share of rows that needed it is reported.
  bool clamp_negative_masks = false;
};

// Denominators of a multiplicative mask are at least this share of sum_j K(q_i, k_j) max |T|.
inline constexpr float kFltClampShare = 1e-3F;

// Immutable. Arrays are on the host, padded to 16 columns; sets of a projection are H or 1.
struct FltKernel {
  uint64_t id = 0;  // Of all that MakeFltKernel has made, and of their copies.
  FltConfig config;
  FltSizes sizes;
  FltWaves waves;
  float root_scale = 1;                   // sqrt(s): of queries and keys.
  size_t projection_sets = 0;             // 0 where the map has no projection.
  std::vector<float> weights;             // [sets, E, P]: W
  std::vector<float> transposed_weights;  // [sets, P', E]: of P' columns that count.
  std::vector<float> bias;                // [sets, M], or empty.
  double projection_factor = 1;           // W = projection_factor projection^T
  double bias_factor = 0;                 // bias = bias_factor |row|^2
  std::vector<float> projection;          // [sets, P', E] as given.

  // The waves of each head, padded: see WaveRows.
  std::vector<float> frequencies;                     // [H, l, r]
  std::vector<float> query_a, query_b, key_a, key_b;  // [H, r]
  std::vector<float> constants;                       // [H]: 1 in the additive form.
  std::vector<float> floors;  // [H]: kFltClampShare max |T|; 0 where T is never negative.
};

// Prepares a kernel. `projection` [sets, P, E] has rows for the map's P projections, or is empty
// where the map has none; `waves` may have none. InvalidArgument for sizes out of range, arrays
// that do not fit, numbers that are not finite, and a multiplicative mask that may be negative
// unless it is to be clamped.
absl::StatusOr<FltKernel> MakeFltKernel(const FltConfig& config, FltWaves waves,
                                        std::span<const float> projection);

// Bytes of a kernel's arrays.
size_t FltKernelBytes(const FltKernel& kernel);

// P and E of `config` with `waves` waves. InvalidArgument as above.
struct FltProjectionShape {
  size_t rows, inputs;
};
absl::StatusOr<FltProjectionShape> FltProjectionOf(const FltConfig& config, size_t waves);

// A projection [P, E]: rows orthogonal in blocks, of norm sqrt(E), or of independent
// chi-distributed norms, with which exponential maps are unbiased. The same seed gives the same
// numbers everywhere.
enum class RowNorms : uint8_t { kRoot, kChi };
std::vector<float> DrawProjection(size_t rows, size_t inputs, RowNorms norms, uint64_t seed);

}  // namespace mnemosyne::kernels
