// FLT: relative positional encodings that are given by their learned spectrum.
//
// A mask f(z) of the offset of two positions is a short sum of waves with saved frequencies and
// learned complex weights. Each wave is two numbers of a query and two of a key, whose dot product
// is f(r_i - r_j) exactly; they are appended to q and k before a feature map is applied. All of it
// depends on weights and positions alone, so it is computed once, on the host, in double.
//
// Sources: arXiv 2302.01925; metatrain's components/flt.py is the specification.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace mnemosyne::kernels {

// f(z) = sum_m Re(w_m exp(2 pi i xi_m . z)).
struct Spectrum {
  size_t dimensions = 0;            // l: numbers of a position.
  std::vector<double> frequencies;  // xi: [r, l], cycles per unit of position.
  std::vector<double> real;         // [r]
  std::vector<double> imaginary;    // [r]; all 0 for an even mask.

  size_t count() const { return real.size(); }
};

// A mixture of Gaussians: g(xi) = sum_b (w_b + i v_b) exp(-|xi - mu_b|^2 / s_b^2), made Hermitian.
struct GaussianMixture {
  std::span<const float> weights;        // [modes]
  std::span<const float> odd_weights;    // [modes], or empty for an even mask.
  std::span<const float> centers;        // [modes, l]
  std::span<const float> log_variances;  // [modes]: log s^2
};

// The waves of a mixture at the saved base frequencies [r, l], standard normal numbers that are
// scaled by `frequency_scale`. Weights are scaled down so that the sum of their magnitudes is at
// most `norm_max`.
Spectrum GaussianMixtureSpectrum(const GaussianMixture& mixture, std::span<const float> base,
                                 size_t dimensions, double frequency_scale, double norm_max);

// A Gaussian kernel f(z) = amplitude exp(-sum_a c_a z_a^2 / 2), with log_precisions log c [l], and
// shifted by `offset` [l] unless that is empty.
Spectrum ShiftInvariantSpectrum(float amplitude, std::span<const float> log_precisions,
                                std::span<const float> offset, std::span<const float> base,
                                double norm_max);

// f(z) = amplitude where |z_a| <= exp(log_radius_a) on every axis, else 0; shifted as above.
Spectrum LocalBoxSpectrum(float amplitude, std::span<const float> log_radius,
                          std::span<const float> offset, std::span<const float> base,
                          double frequency_scale, double norm_max);

// f(z) = amplitude where |z| <= exp(log_radius), else 0, in 3 dimensions; shifted as above.
Spectrum LocalBallSpectrum(float amplitude, float log_radius, std::span<const float> offset,
                           std::span<const float> base, double frequency_scale, double norm_max);

// Numbers of queries and keys at `positions` [n, l]: [n, 2 r] each.
struct PositionalFeatures {
  std::vector<float> query;
  std::vector<float> key;
};
PositionalFeatures MakePositionalFeatures(const Spectrum& spectrum,
                                          std::span<const float> positions);

// f at one offset [l], for tests.
double EvaluateMask(const Spectrum& spectrum, std::span<const double> offset);

}  // namespace mnemosyne::kernels
