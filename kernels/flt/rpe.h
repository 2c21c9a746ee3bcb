// Relative positional encodings by their learned spectrum: a few parameters a head, which become
// the waves that FLT attention takes, and the gradients back. All on the host, in double.
//
// Sources: arXiv 2302.01925; components/spectrum.h has the spectra. Ours: signed masks, and squared
// ones, which are non-negative by construction. docs/flt.md has the equations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/flt/flt_kernel.h"

namespace mnemosyne::kernels {

enum class RpeKind : uint8_t {
  kNone,
  kGaussianMixture,  // g(xi) = sum_b (w_b + i v_b) exp(-|xi - mu_b|^2 / s_b^2), made Hermitian.
  kShiftInvariant,   // f(z) = a exp(-sum_axis c z^2 / 2)
  kLocalBox,         // f(z) = a where |z| <= radius on every axis, else 0; in 1-D a window.
  kLocalBall,        // f(z) = a where |z| <= radius, else 0, in 3-D.
};

struct RpeSpec {
  RpeKind kind = RpeKind::kNone;
  size_t heads = 1;
  size_t positions = 1;    // l
  size_t waves = 32;       // r, of the spectrum; see RpeWaveCount.
  size_t modes = 8;        // Of a mixture.
  bool is_signed = false;  // Whether f(z) may differ from f(-z).
  MaskForm form = MaskForm::kAdditive;

  // Only in the multiplicative form: T = constant + |h|^2 instead of constant + f, where h is the
  // complex mask of which f is the real part. At most 16 waves, whose differences become waves.
  bool squared = false;

  double frequency_scale = 1;  // Standard deviation of frequencies; of kShiftInvariant learned.
  double norm_max = 0.5;       // Of sum_m |w_m|: weights are scaled down to it. 0 for no bound.

  // [r, l] for all heads, or [H, r, l]: standard normal numbers, drawn once and kept.
  std::vector<float> base;

  // [H, RpeParameterCount]. A mixture has weights [modes], odd weights [modes] if signed, centers
  // [modes, l], log variances [modes]. The others have amplitude; log precisions [l], log radii
  // [l], or one log radius; and, if signed, an offset [l]. In the multiplicative form the constant
  // is last.
  std::vector<float> parameters;
};

// `none`, `gaussian_mixture`, `shift_invariant`, `local_box` or `local_ball`.
absl::StatusOr<RpeKind> RpeKindOf(std::string_view name);
std::string_view RpeKindName(RpeKind kind);

size_t RpeParameterCount(const RpeSpec& spec);

// Waves that the mask comes to: r, or r (r - 1) / 2 if squared.
size_t RpeWaveCount(const RpeSpec& spec);

// [r, l] standard normal numbers of an additive recurrence through the inverse normal distribution:
// they cover the space more evenly than independent draws. The seed shifts the lattice.
std::vector<float> DrawBaseFrequencies(size_t waves, size_t positions, uint64_t seed);

// InvalidArgument for sizes out of range, arrays that do not fit, and parameters that are not
// finite.
absl::StatusOr<FltWaves> MakeWaves(const RpeSpec& spec);

// Gradients with respect to the waves, as in FltBackwardArgs, turned into those of the parameters
// [H, RpeParameterCount].
struct WaveGradients {
  std::span<const float> frequencies, real, imaginary, constant;
};
absl::StatusOr<std::vector<float>> RpeGradient(const RpeSpec& spec, const WaveGradients& gradients);

}  // namespace mnemosyne::kernels
