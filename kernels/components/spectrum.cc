#include "kernels/components/spectrum.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace mnemosyne::kernels {
namespace {

constexpr double kPi = std::numbers::pi;

// Keeps roots of magnitudes away from 0.
constexpr double kMagnitudeSmoothing = 1e-12;

double Magnitude(const Spectrum& spectrum, size_t m) {
  return std::sqrt(spectrum.real[m] * spectrum.real[m] +
                   spectrum.imaginary[m] * spectrum.imaginary[m] + kMagnitudeSmoothing);
}

// 2 pi xi_m . r, with whole turns dropped.
template <typename Number>
double Phase(const Spectrum& spectrum, size_t m, std::span<const Number> position) {
  double turns = 0;
  for (size_t a = 0; a < spectrum.dimensions; ++a) {
    const double product =
        static_cast<double>(position[a]) * spectrum.frequencies[m * spectrum.dimensions + a];
    turns += product - std::nearbyint(product);
  }
  return 2 * kPi * (turns - std::nearbyint(turns));
}

// Waves without weights.
Spectrum MakeWaves(std::span<const float> base, size_t dimensions, double scale) {
  Spectrum spectrum;
  spectrum.dimensions = dimensions;
  for (const float number : base) spectrum.frequencies.push_back(scale * number);
  spectrum.real.assign(base.size() / dimensions, 0);
  spectrum.imaginary.assign(base.size() / dimensions, 0);
  return spectrum;
}

std::span<const double> Frequency(const Spectrum& spectrum, size_t m) {
  return std::span(spectrum.frequencies).subspan(m * spectrum.dimensions, spectrum.dimensions);
}

// The density of N(0, scale^2 I).
double GaussianDensity(std::span<const double> xi, double scale) {
  double square = 0;
  for (const double number : xi) square += number * number;
  return std::exp(-0.5 * square / (scale * scale)) /
         std::pow(std::sqrt(2 * kPi) * scale, static_cast<double>(xi.size()));
}

// Turns f(z) into f(z - offset).
void Shift(std::span<const float> offset, Spectrum& spectrum) {
  if (offset.empty()) return;
  for (size_t m = 0; m < spectrum.count(); ++m) {
    const double phase = Phase(spectrum, m, offset);
    const double weight = spectrum.real[m];
    spectrum.real[m] = weight * std::cos(phase);
    spectrum.imaginary[m] = -weight * std::sin(phase);
  }
}

void BoundNorm(double norm_max, Spectrum& spectrum) {
  double norm = 0;
  for (size_t m = 0; m < spectrum.count(); ++m) norm += Magnitude(spectrum, m);
  const double scale = std::min(1.0, norm_max / std::max(norm, norm_max * 1e-3));
  for (double& weight : spectrum.real) weight *= scale;
  for (double& weight : spectrum.imaginary) weight *= scale;
}

// exp(-|sign xi - mu_b|^2 / s_b^2)
double Bump(const GaussianMixture& mixture, size_t mode, std::span<const double> xi, double sign) {
  double square = 0;
  for (size_t a = 0; a < xi.size(); ++a) {
    const double distance =
        sign * xi[a] - static_cast<double>(mixture.centers[mode * xi.size() + a]);
    square += distance * distance;
  }
  return std::exp(-square / std::exp(static_cast<double>(mixture.log_variances[mode])));
}

double Sinc(double x) { return x == 0 ? 1 : std::sin(kPi * x) / (kPi * x); }

// Transform of 1[|z| <= v] in three dimensions at |xi| = rho, where square = (2 pi v rho)^2.
double BallTransform(double radius, double square) {
  double shape = 0;  // 3 (sin x - x cos x) / x^3
  if (square < 0.25) {
    for (int k = 6; k >= 0; --k) {
      const double sign = k % 2 == 0 ? 1 : -1;
      shape = shape * square + 3 * sign * (2 * k + 2) / std::tgamma(2 * k + 4);
    }
  } else {
    const double x = std::sqrt(square);
    shape = 3 * (std::sin(x) - x * std::cos(x)) / (x * x * x);
  }
  return 4.0 / 3 * kPi * radius * radius * radius * shape;
}

// The waves of a window whose transform at a frequency is transform(xi).
template <typename Transform>
Spectrum LocalSpectrum(float amplitude, size_t dimensions, std::span<const float> offset,
                       std::span<const float> base, double frequency_scale, double norm_max,
                       const Transform& transform) {
  Spectrum spectrum = MakeWaves(base, dimensions, frequency_scale);
  for (size_t m = 0; m < spectrum.count(); ++m) {
    const auto xi = Frequency(spectrum, m);
    spectrum.real[m] =
        static_cast<double>(amplitude) * transform(xi) /
        (static_cast<double>(spectrum.count()) * GaussianDensity(xi, frequency_scale));
  }
  Shift(offset, spectrum);
  BoundNorm(norm_max, spectrum);
  return spectrum;
}

}  // namespace

Spectrum GaussianMixtureSpectrum(const GaussianMixture& mixture, std::span<const float> base,
                                 size_t dimensions, double frequency_scale, double norm_max) {
  Spectrum spectrum = MakeWaves(base, dimensions, frequency_scale);
  for (size_t m = 0; m < spectrum.count(); ++m) {
    const auto xi = Frequency(spectrum, m);
    const double scale =
        0.5 / (static_cast<double>(spectrum.count()) * GaussianDensity(xi, frequency_scale));
    for (size_t mode = 0; mode < mixture.weights.size(); ++mode) {
      const double right = Bump(mixture, mode, xi, 1), left = Bump(mixture, mode, xi, -1);
      spectrum.real[m] += scale * static_cast<double>(mixture.weights[mode]) * (right + left);
      if (mixture.odd_weights.empty()) continue;
      spectrum.imaginary[m] +=
          scale * static_cast<double>(mixture.odd_weights[mode]) * (right - left);
    }
  }
  BoundNorm(norm_max, spectrum);
  return spectrum;
}

Spectrum ShiftInvariantSpectrum(float amplitude, std::span<const float> log_precisions,
                                std::span<const float> offset, std::span<const float> base,
                                double norm_max) {
  const size_t dimensions = log_precisions.size();
  Spectrum spectrum = MakeWaves(base, dimensions, 1);
  for (size_t i = 0; i < spectrum.frequencies.size(); ++i) {
    const double log_precision =
        std::clamp(static_cast<double>(log_precisions[i % dimensions]), -20.0, 20.0);
    spectrum.frequencies[i] *= std::exp(0.5 * log_precision) / (2 * kPi);
  }
  spectrum.real.assign(spectrum.count(),
                       static_cast<double>(amplitude) / static_cast<double>(spectrum.count()));
  Shift(offset, spectrum);
  BoundNorm(norm_max, spectrum);
  return spectrum;
}

Spectrum LocalBoxSpectrum(float amplitude, std::span<const float> log_radius,
                          std::span<const float> offset, std::span<const float> base,
                          double frequency_scale, double norm_max) {
  const auto transform = [&](std::span<const double> xi) {
    double product = 1;
    for (size_t a = 0; a < xi.size(); ++a) {
      const double radius = std::exp(static_cast<double>(log_radius[a]));
      product *= 2 * radius * Sinc(2 * radius * xi[a]);
    }
    return product;
  };
  return LocalSpectrum(amplitude, log_radius.size(), offset, base, frequency_scale, norm_max,
                       transform);
}

Spectrum LocalBallSpectrum(float amplitude, float log_radius, std::span<const float> offset,
                           std::span<const float> base, double frequency_scale, double norm_max) {
  const double radius = std::exp(static_cast<double>(log_radius));
  const auto transform = [&](std::span<const double> xi) {
    double square = 0;
    for (const double number : xi) square += number * number;
    return BallTransform(radius, std::pow(2 * kPi * radius, 2) * square);
  };
  return LocalSpectrum(amplitude, 3, offset, base, frequency_scale, norm_max, transform);
}

PositionalFeatures MakePositionalFeatures(const Spectrum& spectrum,
                                          std::span<const float> positions) {
  const size_t count = spectrum.count();
  PositionalFeatures features;
  for (size_t at = 0; at < positions.size(); at += spectrum.dimensions) {
    const auto position = positions.subspan(at, spectrum.dimensions);
    const size_t start = features.query.size();
    features.query.resize(start + 2 * count);
    features.key.resize(start + 2 * count);
    for (size_t m = 0; m < count; ++m) {
      const double phase = Phase(spectrum, m, position);
      const double cosine = std::cos(phase), sine = std::sin(phase);
      const double root = std::sqrt(Magnitude(spectrum, m));
      const double real = spectrum.real[m] / root, imaginary = spectrum.imaginary[m] / root;
      features.query[start + m] = static_cast<float>(root * cosine);
      features.query[start + count + m] = static_cast<float>(root * sine);
      features.key[start + m] = static_cast<float>(real * cosine + imaginary * sine);
      features.key[start + count + m] = static_cast<float>(real * sine - imaginary * cosine);
    }
  }
  return features;
}

double EvaluateMask(const Spectrum& spectrum, std::span<const double> offset) {
  double mask = 0;
  for (size_t m = 0; m < spectrum.count(); ++m) {
    const double phase = Phase(spectrum, m, offset);
    mask += spectrum.real[m] * std::cos(phase) - spectrum.imaginary[m] * std::sin(phase);
  }
  return mask;
}

}  // namespace mnemosyne::kernels
