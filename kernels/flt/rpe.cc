#include "kernels/flt/rpe.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <numbers>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/components/spectrum.h"

namespace mnemosyne::kernels {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr double kNoBound = 1e30;
constexpr double kMagnitudeSmoothing = 1e-12;  // As in components/spectrum.cc.

constexpr std::array<std::pair<std::string_view, RpeKind>, 5> kKinds = {
    {{"none", RpeKind::kNone},
     {"gaussian_mixture", RpeKind::kGaussianMixture},
     {"shift_invariant", RpeKind::kShiftInvariant},
     {"local_box", RpeKind::kLocalBox},
     {"local_ball", RpeKind::kLocalBall}}};

size_t WidthCount(const RpeSpec& spec) {
  return spec.kind == RpeKind::kLocalBall ? 1 : spec.positions;
}

bool IsLocal(RpeKind kind) { return kind == RpeKind::kLocalBox || kind == RpeKind::kLocalBall; }

absl::Status CheckSpec(const RpeSpec& spec) {
  if (spec.kind == RpeKind::kNone) return absl::OkStatus();
  if (spec.positions < 1 || spec.positions > kFltPositionMax) {
    return InvalidArgument("wrong size: positions have {} coordinates, expected 1 to {}",
                           spec.positions, kFltPositionMax);
  }
  if (spec.kind == RpeKind::kLocalBall && spec.positions != 3) {
    return InvalidArgument("a ball needs positions of 3 coordinates, not {}; use local_box",
                           spec.positions);
  }
  if (spec.waves < 1 || RpeWaveCount(spec) > kFltWaveMax) {
    return InvalidArgument("wrong size: {} waves, expected 1 to {}, or to 16 if squared",
                           spec.waves, kFltWaveMax);
  }
  if (spec.modes < 1 && spec.kind == RpeKind::kGaussianMixture) {
    return InvalidArgument("wrong size: a mixture of 0 Gaussians, expected at least 1");
  }
  if (spec.squared && spec.waves < 2) {
    return InvalidArgument("a squared mask needs at least 2 waves");
  }
  if (spec.squared && spec.form == MaskForm::kAdditive) {
    return InvalidArgument("a squared mask needs the multiplicative form");
  }
  if (!(spec.frequency_scale > 0) || !std::isfinite(spec.frequency_scale)) {
    return InvalidArgument("wrong frequency scale: {}, expected a positive number",
                           spec.frequency_scale);
  }
  if (!(spec.norm_max >= 0)) {
    return InvalidArgument("wrong bound of the norm: {}, expected a positive number, or 0 for none",
                           spec.norm_max);
  }
  const size_t base = spec.waves * spec.positions;
  if (spec.base.size() != base && spec.base.size() != spec.heads * base) {
    return InvalidArgument(
        "wrong size: {} base frequencies, expected {}, or {} for each of {} heads",
        spec.base.size(), base, base, spec.heads);
  }
  const size_t count = spec.heads * RpeParameterCount(spec);
  if (spec.parameters.size() != count) {
    return InvalidArgument("wrong size: {} parameters of {} for {} heads, expected {}",
                           spec.parameters.size(), RpeKindName(spec.kind), spec.heads, count);
  }
  const auto bad = [](float x) { return !std::isfinite(x); };
  if (std::ranges::any_of(spec.parameters, bad) || std::ranges::any_of(spec.base, bad)) {
    return InvalidArgument("not finite: a parameter or base frequency of {} is NaN or infinite",
                           RpeKindName(spec.kind));
  }
  return absl::OkStatus();
}

// The parameters of one head by name.
struct HeadParameters {
  std::span<const float> base;  // [r, l]
  std::span<const float> all;
  std::span<const float> weights, odd_weights, centers, log_variances;  // Of a mixture.
  float amplitude = 0;
  std::span<const float> widths;  // Logarithms.
  std::span<const float> offset;  // [l], or empty.
  float constant = 0;
};

// Places of the parts of a head's parameters.
struct Places {
  size_t odd, centers, variances;  // Of a mixture; its weights are from 0 on.
  size_t widths = 1, offset, constant;
};

Places PlacesOf(const RpeSpec& spec) {
  Places places = {};
  if (spec.kind == RpeKind::kGaussianMixture) {
    places.odd = spec.modes;
    places.centers = places.odd + (spec.is_signed ? spec.modes : 0);
    places.variances = places.centers + spec.modes * spec.positions;
    places.constant = places.variances + spec.modes;
    return places;
  }
  places.widths = 1;
  places.offset = places.widths + WidthCount(spec);
  places.constant = places.offset + (spec.is_signed ? spec.positions : 0);
  return places;
}

HeadParameters ParametersOf(const RpeSpec& spec, size_t head) {
  const size_t count = RpeParameterCount(spec), base = spec.waves * spec.positions;
  const Places places = PlacesOf(spec);
  HeadParameters p;
  p.base = std::span(spec.base).subspan(spec.base.size() == base ? 0 : head * base, base);
  p.all = std::span(spec.parameters).subspan(head * count, count);
  if (spec.form == MaskForm::kMultiplicative) p.constant = p.all[places.constant];
  if (spec.kind == RpeKind::kGaussianMixture) {
    p.weights = p.all.first(spec.modes);
    if (spec.is_signed) p.odd_weights = p.all.subspan(places.odd, spec.modes);
    p.centers = p.all.subspan(places.centers, spec.modes * spec.positions);
    p.log_variances = p.all.subspan(places.variances, spec.modes);
    return p;
  }
  p.amplitude = p.all[0];
  p.widths = p.all.subspan(places.widths, WidthCount(spec));
  if (spec.is_signed) p.offset = p.all.subspan(places.offset, spec.positions);
  return p;
}

Spectrum SpectrumOf(const RpeSpec& spec, const HeadParameters& p, std::span<const float> offset,
                    double norm_max) {
  switch (spec.kind) {
    case RpeKind::kGaussianMixture:
      return GaussianMixtureSpectrum({p.weights, p.odd_weights, p.centers, p.log_variances}, p.base,
                                     spec.positions, spec.frequency_scale, norm_max);
    case RpeKind::kShiftInvariant:
      return ShiftInvariantSpectrum(p.amplitude, p.widths, offset, p.base, norm_max);
    case RpeKind::kLocalBox:
      return LocalBoxSpectrum(p.amplitude, p.widths, offset, p.base, spec.frequency_scale,
                              norm_max);
    case RpeKind::kLocalBall:
      return LocalBallSpectrum(p.amplitude, p.widths[0], offset, p.base, spec.frequency_scale,
                               norm_max);
    case RpeKind::kNone:
      break;
  }
  return {};
}

double BoundOf(const RpeSpec& spec) { return spec.norm_max == 0 ? kNoBound : spec.norm_max; }

// |h|^2 as a constant, which is returned, and waves.
double Square(const Spectrum& h, Spectrum& waves) {
  double constant = 0;
  waves.dimensions = h.dimensions;
  for (size_t m = 0; m < h.count(); ++m) {
    const std::complex<double> a(h.real[m], h.imaginary[m]);
    constant += std::norm(a);
    for (size_t n = 0; n < m; ++n) {
      const std::complex<double> weight =
          2.0 * a * std::conj(std::complex<double>(h.real[n], h.imaginary[n]));
      for (size_t axis = 0; axis < h.dimensions; ++axis) {
        waves.frequencies.push_back(h.frequencies[m * h.dimensions + axis] -
                                    h.frequencies[n * h.dimensions + axis]);
      }
      waves.real.push_back(weight.real());
      waves.imaginary.push_back(weight.imag());
    }
  }
  return constant;
}

// Gradients with respect to a spectrum of one head.
struct SpectrumGradient {
  std::vector<double> frequencies, real, imaginary;
};

// Turns gradients of the waves of |h|^2 into those of h.
SpectrumGradient SquareGradient(const Spectrum& h, const SpectrumGradient& of_waves,
                                double of_constant) {
  SpectrumGradient g;
  g.frequencies.resize(h.frequencies.size());
  for (size_t m = 0; m < h.count(); ++m) {
    g.real.push_back(2 * of_constant * h.real[m]);
    g.imaginary.push_back(2 * of_constant * h.imaginary[m]);
  }
  for (size_t m = 0, wave = 0; m < h.count(); ++m) {
    for (size_t n = 0; n < m; ++n, ++wave) {
      const double real = 2 * of_waves.real[wave], imaginary = 2 * of_waves.imaginary[wave];
      g.real[m] += real * h.real[n] - imaginary * h.imaginary[n];
      g.imaginary[m] += real * h.imaginary[n] + imaginary * h.real[n];
      g.real[n] += real * h.real[m] + imaginary * h.imaginary[m];
      g.imaginary[n] += real * h.imaginary[m] - imaginary * h.real[m];
      for (size_t axis = 0; axis < h.dimensions; ++axis) {
        const double number = of_waves.frequencies[wave * h.dimensions + axis];
        g.frequencies[m * h.dimensions + axis] += number;
        g.frequencies[n * h.dimensions + axis] -= number;
      }
    }
  }
  return g;
}

// Takes the gradients back through the bound on the norm of `free`, the weights without it.
void BoundGradient(const Spectrum& free, double norm_max, SpectrumGradient& g) {
  double norm = 0, along = 0;
  std::vector<double> magnitudes;
  for (size_t m = 0; m < free.count(); ++m) {
    const double a = free.real[m], b = free.imaginary[m];
    magnitudes.push_back(std::sqrt(a * a + b * b + kMagnitudeSmoothing));
    norm += magnitudes.back();
    along += g.real[m] * a + g.imaginary[m] * b;
  }
  if (norm <= norm_max) return;
  const double scale = norm_max / norm;
  for (size_t m = 0; m < free.count(); ++m) {
    const double back = along * scale / (norm * magnitudes[m]);
    g.real[m] = scale * g.real[m] - back * free.real[m];
    g.imaginary[m] = scale * g.imaginary[m] - back * free.imaginary[m];
  }
}

// Takes the gradients back through the shift by an offset: `plain` has real weights.
void ShiftGradient(const Spectrum& plain, std::span<const float> offset, SpectrumGradient& g,
                   std::span<double> of_offset) {
  if (offset.empty()) return;
  const size_t dimensions = plain.dimensions;
  for (size_t m = 0; m < plain.count(); ++m) {
    double turns = 0;
    for (size_t axis = 0; axis < dimensions; ++axis) {
      turns += plain.frequencies[m * dimensions + axis] * static_cast<double>(offset[axis]);
    }
    const double phase = 2 * kPi * (turns - std::nearbyint(turns));
    const double cosine = std::cos(phase), sine = std::sin(phase);
    const double of_phase = -plain.real[m] * (g.real[m] * sine + g.imaginary[m] * cosine);
    g.real[m] = g.real[m] * cosine - g.imaginary[m] * sine;
    for (size_t axis = 0; axis < dimensions; ++axis) {
      of_offset[axis] += 2 * kPi * plain.frequencies[m * dimensions + axis] * of_phase;
      g.frequencies[m * dimensions + axis] +=
          2 * kPi * static_cast<double>(offset[axis]) * of_phase;
    }
  }
}

double Density(std::span<const double> xi, double scale) {
  double square = 0;
  for (const double number : xi) square += number * number;
  return std::exp(-0.5 * square / (scale * scale)) /
         std::pow(std::sqrt(2 * kPi) * scale, static_cast<double>(xi.size()));
}

std::span<const double> Frequency(const Spectrum& spectrum, size_t m) {
  return std::span(spectrum.frequencies).subspan(m * spectrum.dimensions, spectrum.dimensions);
}

void MixtureGradient(const RpeSpec& spec, const HeadParameters& p, const Spectrum& plain,
                     const SpectrumGradient& g, std::span<double> out) {
  const Places places = PlacesOf(spec);
  for (size_t m = 0; m < plain.count(); ++m) {
    const auto xi = Frequency(plain, m);
    const double scale =
        0.5 / (static_cast<double>(plain.count()) * Density(xi, spec.frequency_scale));
    for (size_t mode = 0; mode < spec.modes; ++mode) {
      const double variance = std::exp(static_cast<double>(p.log_variances[mode]));
      const double weight = p.weights[mode];
      const double odd = p.odd_weights.empty() ? 0 : static_cast<double>(p.odd_weights[mode]);
      for (const double sign : {1.0, -1.0}) {
        double square = 0;
        for (size_t axis = 0; axis < xi.size(); ++axis) {
          square += std::pow(
              sign * xi[axis] - static_cast<double>(p.centers[mode * xi.size() + axis]), 2);
        }
        const double bump = scale * std::exp(-square / variance);
        out[mode] += g.real[m] * bump;
        if (spec.is_signed) out[places.odd + mode] += g.imaginary[m] * sign * bump;
        const double of_bump = (g.real[m] * weight + g.imaginary[m] * sign * odd) * bump;
        for (size_t axis = 0; axis < xi.size(); ++axis) {
          const double distance =
              sign * xi[axis] - static_cast<double>(p.centers[mode * xi.size() + axis]);
          out[places.centers + mode * xi.size() + axis] += of_bump * 2 * distance / variance;
        }
        out[places.variances + mode] += of_bump * square / variance;
      }
    }
  }
}

// d transform / d log radius on one axis of a box, or of a ball, over the transform's other
// factors.
void LocalGradient(const RpeSpec& spec, const HeadParameters& p, const Spectrum& plain,
                   const SpectrumGradient& g, std::span<double> out) {
  const auto sinc = [](double x) { return x == 0 ? 1 : std::sin(x) / x; };
  for (size_t m = 0; m < plain.count(); ++m) {
    const auto xi = Frequency(plain, m);
    const double amplitude = p.amplitude;
    const double unit =
        1 / (static_cast<double>(plain.count()) * Density(xi, spec.frequency_scale));
    const size_t widths = p.widths.size();
    if (spec.kind == RpeKind::kLocalBall) {
      const double radius = std::exp(static_cast<double>(p.widths[0]));
      double square = 0;
      for (const double number : xi) square += number * number;
      const double x = 2 * kPi * radius * std::sqrt(square);
      out[1] += g.real[m] * amplitude * unit * 4 * kPi * std::pow(radius, 3) * sinc(x);
    } else {
      for (size_t axis = 0; axis < widths; ++axis) {
        double change = unit * amplitude;
        for (size_t other = 0; other < widths; ++other) {
          const double radius = std::exp(static_cast<double>(p.widths[other]));
          const double x = 2 * kPi * radius * xi[other];
          change *= 2 * radius * (other == axis ? std::cos(x) : sinc(x));
        }
        out[1 + axis] += g.real[m] * change;
      }
    }
  }
}

// The inverse of the normal distribution function, by bisection of erfc; for a few numbers.
double InverseNormal(double probability) {
  double low = -9, high = 9;
  for (int i = 0; i < 80; ++i) {
    const double middle = 0.5 * (low + high);
    (0.5 * std::erfc(-middle / std::numbers::sqrt2) < probability ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

}  // namespace

absl::StatusOr<RpeKind> RpeKindOf(std::string_view name) {
  for (const auto& [known, kind] : kKinds) {
    if (known == name) return kind;
  }
  return InvalidArgument(
      "unknown positional encoding: {}, expected none, gaussian_mixture, shift_invariant, "
      "local_box "
      "or local_ball",
      name);
}

std::string_view RpeKindName(RpeKind kind) {
  for (const auto& [name, known] : kKinds) {
    if (known == kind) return name;
  }
  return "unknown";
}

size_t RpeParameterCount(const RpeSpec& spec) {
  if (spec.kind == RpeKind::kNone) return 0;
  return PlacesOf(spec).constant + (spec.form == MaskForm::kMultiplicative ? 1 : 0);
}

size_t RpeWaveCount(const RpeSpec& spec) {
  if (spec.kind == RpeKind::kNone) return 0;
  return spec.squared ? spec.waves * (spec.waves - 1) / 2 : spec.waves;
}

absl::StatusOr<FltWaves> MakeWaves(const RpeSpec& spec) {
  MNEMO_RETURN_IF_ERROR(CheckSpec(spec));
  FltWaves result;
  if (spec.kind == RpeKind::kNone) return result;
  result.positions = spec.positions;
  result.waves = RpeWaveCount(spec);
  result.never_negative = spec.squared;
  for (size_t head = 0; head < spec.heads; ++head) {
    const HeadParameters p = ParametersOf(spec, head);
    Spectrum spectrum = SpectrumOf(spec, p, p.offset, BoundOf(spec));
    double constant = p.constant;
    if (spec.squared) {
      Spectrum squared;
      constant += Square(spectrum, squared);
      spectrum = std::move(squared);
      if (p.constant < 0) result.never_negative = false;
    }
    for (const double x : spectrum.frequencies) {
      result.frequencies.push_back(static_cast<float>(x));
    }
    for (const double x : spectrum.real) result.real.push_back(static_cast<float>(x));
    for (const double x : spectrum.imaginary) result.imaginary.push_back(static_cast<float>(x));
    result.constant.push_back(static_cast<float>(constant));
  }
  return result;
}

absl::StatusOr<std::vector<float>> RpeGradient(const RpeSpec& spec,
                                               const WaveGradients& gradients) {
  MNEMO_RETURN_IF_ERROR(CheckSpec(spec));
  const size_t count = RpeWaveCount(spec), parameters = RpeParameterCount(spec);
  if (gradients.real.size() != spec.heads * count ||
      gradients.imaginary.size() != spec.heads * count ||
      gradients.frequencies.size() != spec.heads * count * spec.positions ||
      gradients.constant.size() != (count == 0 ? 0 : spec.heads)) {
    return InvalidArgument("wrong size: gradients of {} waves, expected {} for each of {} heads",
                           gradients.real.size(), count, spec.heads);
  }
  std::vector<float> result;
  for (size_t head = 0; head < spec.heads && count > 0; ++head) {
    const HeadParameters p = ParametersOf(spec, head);
    const auto part = [&](std::span<const float> all, size_t each) {
      const auto own = all.subspan(head * each, each);
      return std::vector<double>(own.begin(), own.end());
    };
    SpectrumGradient g = {part(gradients.frequencies, count * spec.positions),
                          part(gradients.real, count), part(gradients.imaginary, count)};
    const double of_constant = gradients.constant[head];
    if (spec.squared) {
      g = SquareGradient(SpectrumOf(spec, p, p.offset, BoundOf(spec)), g, of_constant);
    }
    BoundGradient(SpectrumOf(spec, p, p.offset, kNoBound), BoundOf(spec), g);
    const Spectrum plain = SpectrumOf(spec, p, {}, kNoBound);
    const Places places = PlacesOf(spec);
    std::vector<double> out(parameters);
    if (!p.offset.empty()) {
      ShiftGradient(plain, p.offset, g, std::span(out).subspan(places.offset, spec.positions));
    }
    if (spec.kind == RpeKind::kGaussianMixture) {
      MixtureGradient(spec, p, plain, g, out);
    } else {
      HeadParameters unit = p;
      unit.amplitude = 1;
      const Spectrum of_unit = SpectrumOf(spec, unit, {}, kNoBound);
      for (size_t m = 0; m < plain.count(); ++m) out[0] += g.real[m] * of_unit.real[m];
    }
    if (IsLocal(spec.kind)) LocalGradient(spec, p, plain, g, out);
    if (spec.kind == RpeKind::kShiftInvariant) {
      for (size_t i = 0; i < plain.frequencies.size(); ++i) {
        const size_t axis = i % spec.positions;
        if (std::abs(p.widths[axis]) > 20) continue;  // Clamped.
        out[1 + axis] += 0.5 * g.frequencies[i] * plain.frequencies[i];
      }
    }
    if (spec.form == MaskForm::kMultiplicative) out[places.constant] = of_constant;
    for (const double number : out) result.push_back(static_cast<float>(number));
  }
  return result;
}

std::vector<float> DrawBaseFrequencies(size_t waves, size_t positions, uint64_t seed) {
  // The generalized golden ratio: the positive root of x^(l + 1) = x + 1.
  double root = 2;
  for (int i = 0; i < 64; ++i)
    root = std::pow(1 + root, 1 / (1.0 + static_cast<double>(positions)));
  std::vector<float> base(waves * positions);
  const double edge = 0.5 / (64 * static_cast<double>(waves));
  for (size_t axis = 0; axis < positions; ++axis) {
    uint64_t bits = (seed * positions + axis + 1) * 0x9E3779B97F4A7C15U;
    bits = (bits ^ (bits >> 30U)) * 0xBF58476D1CE4E5B9U;
    const double shift = static_cast<double>((bits ^ (bits >> 27U)) >> 11U) * 0x1p-53;
    const double step = std::pow(root, -static_cast<double>(axis + 1));
    for (size_t m = 0; m < waves; ++m) {
      const double at = static_cast<double>(m + 1) * step + shift;
      base[m * positions + axis] =
          static_cast<float>(InverseNormal(std::clamp(at - std::floor(at), edge, 1 - edge)));
    }
  }
  return base;
}

}  // namespace mnemosyne::kernels
