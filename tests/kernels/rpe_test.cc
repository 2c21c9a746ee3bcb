#include "kernels/flt/rpe.h"

#include <cmath>
#include <functional>
#include <limits>
#include <numbers>

#include "kernels/components/spectrum.h"
#include "tests/kernels/flt_example.h"

namespace mnemosyne::kernels {
namespace {

using testing::IsError;

// f or T of a head at an offset.
double MaskOf(const FltWaves& waves, size_t head, const std::vector<double>& z) {
  double mask = waves.constant[head];
  for (size_t m = 0; m < waves.waves; ++m) {
    double turns = 0;
    for (size_t axis = 0; axis < waves.positions; ++axis) {
      turns += z[axis] * static_cast<double>(
                             waves.frequencies[(head * waves.waves + m) * waves.positions + axis]);
    }
    const double angle = 2 * std::numbers::pi * turns;
    mask += static_cast<double>(waves.real[head * waves.waves + m]) * std::cos(angle) -
            static_cast<double>(waves.imaginary[head * waves.waves + m]) * std::sin(angle);
  }
  return mask;
}

TEST(RpeTest, GradientsMatchFiniteDifferences) {
  for (const RpeKind kind : {RpeKind::kGaussianMixture, RpeKind::kShiftInvariant,
                             RpeKind::kLocalBox, RpeKind::kLocalBall}) {
    for (const bool is_signed : {false, true}) {
      for (const double norm_max : {0.0, 0.1}) {
        for (const bool squared : {false, true}) {
          SCOPED_TRACE(fmt::format("{} {} {} {}", RpeKindName(kind), is_signed, norm_max, squared));
          RpeSpec spec = SpecOf({.rpe = kind,
                                 .positions = kind == RpeKind::kLocalBall ? 3U : 2U,
                                 .is_signed = is_signed,
                                 .form = squared ? MaskForm::kMultiplicative : MaskForm::kAdditive,
                                 .squared = squared,
                                 .waves = 5});
          spec.norm_max = norm_max;
          const FltWaves waves = *MakeWaves(spec);
          const auto draw = [](size_t count, uint32_t seed) { return FltNumbers(count, seed, 1); };
          const std::vector<float> a = draw(waves.frequencies.size(), 1),
                                   b = draw(waves.real.size(), 2), c = draw(waves.real.size(), 3),
                                   d = draw(waves.constant.size(), 4);
          const auto loss = [&](const RpeSpec& at) {
            const FltWaves w = *MakeWaves(at);
            double sum = 0;
            const auto add = [&](const std::vector<float>& x, const std::vector<float>& y) {
              for (size_t i = 0; i < x.size(); ++i) {
                sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
              }
            };
            add(w.frequencies, a);
            add(w.real, b);
            add(w.imaginary, c);
            add(w.constant, d);
            return sum;
          };

          const auto gradient = RpeGradient(spec, {a, b, c, d});

          ASSERT_OK(gradient);
          for (size_t i = 0; i < gradient->size(); ++i) {
            RpeSpec moved = spec;
            const float by = 2e-3F;
            moved.parameters[i] = spec.parameters[i] + by;
            const double above = loss(moved);
            const double from = static_cast<double>(moved.parameters[i]);
            moved.parameters[i] = spec.parameters[i] - by;
            const double difference =
                (above - loss(moved)) / (from - static_cast<double>(moved.parameters[i]));
            EXPECT_NEAR((*gradient)[i], difference, 2e-3 * std::max(1.0, std::abs(difference)))
                << "parameter " << i;
          }
        }
      }
    }
  }
}

// With many draws from the frequencies' distribution the waves' sum goes to the mask that the
// spectrum is the transform of.
TEST(RpeTest, WavesAreUnbiasedForTheMaskThatTheirSpectrumGives) {
  struct Case {
    RpeKind kind;
    size_t positions;
    std::vector<float> parameters;
    std::function<double(const std::vector<double>&)> mask;
  };
  const double pi = std::numbers::pi;
  // The transform of w exp(-|xi - mu|^2 / s^2), made even, is
  // w (pi s^2)^(l/2) exp(-pi^2 s^2 |z|^2) cos(2 pi mu . z).
  const Case cases[] = {
      {RpeKind::kGaussianMixture,
       1,
       {0.7F, 0.3F, std::log(0.25F)},
       [&](const auto& z) {
         return 0.7 * std::sqrt(pi * 0.25) * std::exp(-pi * pi * 0.25 * z[0] * z[0]) *
                std::cos(2 * pi * 0.3 * z[0]);
       }},
      {RpeKind::kShiftInvariant,
       2,
       {0.5F, std::log(2.0F), std::log(0.5F)},
       [](const auto& z) { return 0.5 * std::exp(-0.5 * (2 * z[0] * z[0] + 0.5 * z[1] * z[1])); }},
      {RpeKind::kLocalBox,
       1,
       {0.8F, std::log(0.6F)},
       [](const auto& z) { return std::abs(z[0]) <= 0.6 ? 0.8 : 0.0; }},
      {RpeKind::kLocalBox,
       2,
       {0.8F, std::log(0.6F), std::log(0.9F)},
       [](const auto& z) { return std::abs(z[0]) <= 0.6 && std::abs(z[1]) <= 0.9 ? 0.8 : 0.0; }},
      {RpeKind::kLocalBall, 3, {0.8F, std::log(0.7F)}, [](const auto& z) {
         return z[0] * z[0] + z[1] * z[1] + z[2] * z[2] <= 0.49 ? 0.8 : 0.0;
       }}};
  for (const Case& c : cases) {
    SCOPED_TRACE(fmt::format("{} {}", RpeKindName(c.kind), c.positions));
    for (const double at : {0.0, 0.25, 0.45, 1.3}) {
      std::vector<double> z(c.positions, at / std::sqrt(static_cast<double>(c.positions)));
      double sum = 0, square = 0;
      constexpr int kDraws = 4000;
      for (int draw = 0; draw < kDraws; ++draw) {
        const RpeSpec spec = {.kind = c.kind,
                              .positions = c.positions,
                              .waves = 64,
                              .modes = 1,
                              .frequency_scale = 1.5,
                              .norm_max = 0,
                              .base = FltNumbers(64 * c.positions, static_cast<uint32_t>(draw), 1),
                              .parameters = c.parameters};
        const FltWaves waves = *MakeWaves(spec);
        FltWaves with_constant = waves;
        with_constant.constant.assign(1, 0);
        const double mask = MaskOf(with_constant, 0, z);
        sum += mask;
        square += mask * mask;
      }
      const double mean = sum / kDraws;
      const double error = std::sqrt((square / kDraws - mean * mean) / kDraws);
      // Local spectra have heavy tails: their edges ring, and single draws weigh much.
      EXPECT_NEAR(mean, c.mask(z), 5 * error + 0.02) << "at " << at;
    }
  }
}

TEST(RpeTest, ASquaredMaskIsNeverNegative) {
  const FltWaves waves = *MakeWaves(SpecOf({.rpe = RpeKind::kLocalBox,
                                            .is_signed = true,
                                            .form = MaskForm::kMultiplicative,
                                            .squared = true,
                                            .waves = 12}));
  EXPECT_TRUE(waves.never_negative);
  for (int i = -400; i <= 400; ++i) EXPECT_GE(MaskOf(waves, 0, {0.05 * i}), -1e-6);
}

TEST(RpeTest, MultiplicativeMasksThatMayBeNegativeAreRefused) {
  const FltCase c = {.rpe = RpeKind::kLocalBox, .form = MaskForm::kMultiplicative, .clamp = true};
  const FltWaves waves = *MakeWaves(SpecOf(c));
  const FltConfig config = {
      .heads = 2, .dim = 16, .value_dim = 16, .features = 32, .form = MaskForm::kMultiplicative};
  const std::vector<float> projection = DrawProjection(32, 16, RowNorms::kRoot, 1);

  EXPECT_THAT(MakeFltKernel(config, waves, projection),
              IsError(absl::StatusCode::kInvalidArgument, "mask may be negative: head 0"));
}

TEST(RpeTest, SaysWhatIsWrongWithItsParameters) {
  RpeSpec spec = SpecOf({});
  spec.parameters[3] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(MakeWaves(spec), IsError(absl::StatusCode::kInvalidArgument, "not finite"));
  spec = SpecOf({});
  spec.parameters.pop_back();
  EXPECT_THAT(MakeWaves(spec), IsError(absl::StatusCode::kInvalidArgument,
                                       "17 parameters of gaussian_mixture for 2 heads, expected"));
  spec = SpecOf({.positions = 2});
  spec.kind = RpeKind::kLocalBall;
  EXPECT_THAT(MakeWaves(spec),
              IsError(absl::StatusCode::kInvalidArgument, "positions of 3 coordinates, not 2"));
  EXPECT_THAT(RpeKindOf("fourier"),
              IsError(absl::StatusCode::kInvalidArgument, "unknown positional encoding: fourier"));
  EXPECT_THAT(
      MakeFltKernel({.dim = 129}, {}, {}),
      IsError(absl::StatusCode::kInvalidArgument, "head dimension is 129, expected 1 to 128"));
  EXPECT_THAT(MakeFltKernel({.features = 300}, {}, {}),
              IsError(absl::StatusCode::kInvalidArgument, "features is 300, expected 1 to 256"));
}

// Rows of chi-distributed norms give the exponential kernel without bias; rows of norm sqrt(E) a
// little less, by about |q + k|^4 / (4 E) of it.
TEST(ProjectionTest, RowsHaveTheirNormsAndEstimateTheExponentialKernel) {
  constexpr size_t kInputs = 16, kRows = 16;
  std::vector<double> q(kInputs, 0.2), k(kInputs);
  for (size_t i = 0; i < kInputs; ++i) k[i] = i % 2 == 0 ? 0.25 : -0.1;
  double exact = 0, q_half = 0, k_half = 0, sum_square = 0;
  for (size_t i = 0; i < kInputs; ++i) {
    exact += q[i] * k[i];
    q_half += 0.5 * q[i] * q[i];
    k_half += 0.5 * k[i] * k[i];
    sum_square += (q[i] + k[i]) * (q[i] + k[i]);
  }
  for (const RowNorms norms : {RowNorms::kChi, RowNorms::kRoot}) {
    double sum = 0, square = 0;
    constexpr int kDraws = 4000;
    for (int draw = 0; draw < kDraws; ++draw) {
      const std::vector<float> w =
          DrawProjection(kRows, kInputs, norms, static_cast<uint64_t>(draw));
      double estimate = 0;
      for (size_t row = 0; row < kRows; ++row) {
        double along_q = 0, along_k = 0, norm = 0;
        for (size_t i = 0; i < kInputs; ++i) {
          const double number = w[row * kInputs + i];
          along_q += number * q[i];
          along_k += number * k[i];
          norm += number * number;
        }
        if (norms == RowNorms::kRoot) {
          ASSERT_NEAR(norm, static_cast<double>(kInputs), 1e-4);
        }
        estimate += std::exp(along_q - q_half + along_k - k_half) / kRows;
      }
      sum += estimate;
      square += estimate * estimate;
    }
    const double mean = sum / kDraws;
    const double error = std::sqrt((square / kDraws - mean * mean) / kDraws);
    const double bias = norms == RowNorms::kRoot ? sum_square * sum_square / (4 * kInputs) : 0;
    EXPECT_NEAR(mean, std::exp(exact), 5 * error + bias * std::exp(exact));
  }
}

}  // namespace
}  // namespace mnemosyne::kernels
