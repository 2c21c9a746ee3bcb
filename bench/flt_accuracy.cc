// Measures how far FLT attention is from exact softmax attention with the explicit mask, over
// features, waves and norms; prints CSV. plot_flt_accuracy.py draws it and writes docs/flt.md's
// table.
//
// The problem: 96 rows, head dimension 16, queries and keys of a given norm (of sqrt(s) q) in
// random directions, normal values, positions 0, 1, 2, ...; each figure is the root mean square
// over 6 draws of everything, relative to that of the exact outputs.
#include <fmt/format.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/flt/rpe.h"
#include "kernels/reference/flt_reference.h"

namespace mnemosyne::kernels {
namespace {

constexpr size_t kLength = 96, kDim = 16, kDraws = 6;

struct Setting {
  std::string map = "favor_plus";
  RpeKind rpe = RpeKind::kNone;
  MaskForm form = MaskForm::kAdditive;
  RowNorms norms = RowNorms::kRoot;
  size_t features = 64;
  size_t waves = 16;
  double norm = 1;
};

// Parameters of a head, whose mask reaches some 8 positions and about 0.7.
std::vector<float> ParametersOf(const Setting& s) {
  std::vector<float> parameters;
  switch (s.rpe) {
    case RpeKind::kGaussianMixture:
      parameters = {6, 0.05F, 2 * std::log(0.05F)};  // One Gaussian.
      break;
    case RpeKind::kShiftInvariant:
      parameters = {0.7F, std::log(1.0F / 64)};
      break;
    case RpeKind::kLocalBox:
      parameters = {0.7F, std::log(8.0F)};
      break;
    default:
      break;
  }
  if (s.form == MaskForm::kMultiplicative && s.rpe != RpeKind::kNone) parameters.push_back(1);
  return parameters;
}

// Relative error of the outputs of one draw.
double ErrorOf(const Setting& s, Backend& backend, uint64_t seed) {
  RpeSpec spec = {.kind = s.rpe,
                  .positions = 1,
                  .waves = s.waves,
                  .modes = 1,
                  .form = s.form,
                  .frequency_scale = 0.1,
                  .norm_max = 1,
                  .base = {},
                  .parameters = {}};
  spec.base = DrawBaseFrequencies(s.waves, 1, seed);
  spec.parameters = ParametersOf(s);
  FltWaves waves = *MakeWaves(spec);
  FltConfig config = {.dim = kDim,
                      .value_dim = kDim,
                      .feature_map = s.map,
                      .features = s.features,
                      .form = s.form,
                      .scale = 1,
                      .square_sum = 2 * s.norm * s.norm,
                      .clamp_negative_masks = true};
  const size_t inputs = kDim + (s.form == MaskForm::kAdditive ? 2 * waves.waves : 0);
  if (s.map == "elu") config.features = inputs;
  if (s.map == "dpfp") config.features = 2 * inputs;
  const FltProjectionShape shape = *FltProjectionOf(config, waves.waves);
  const FltKernel kernel =
      *MakeFltKernel(config, std::move(waves),
                     DrawProjection(shape.rows, shape.inputs,
                                    s.map == "favor_plus_plus" ? RowNorms::kChi : s.norms, seed));
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::normal_distribution<float> normal;
  const auto draw = [&](double norm) {
    std::vector<float> numbers(kLength * kDim);
    for (float& x : numbers) x = normal(random);
    for (size_t row = 0; row < kLength && norm > 0; ++row) {
      double square = 0;
      for (size_t d = 0; d < kDim; ++d) square += std::pow(numbers[row * kDim + d], 2);
      for (size_t d = 0; d < kDim; ++d) {
        numbers[row * kDim + d] *= static_cast<float>(norm / std::sqrt(square));
      }
    }
    return numbers;
  };
  const std::vector<float> q = draw(s.norm), k = draw(s.norm), v = draw(0);
  std::vector<float> out(v.size()), at(kLength);
  for (size_t i = 0; i < kLength; ++i) at[i] = static_cast<float>(i);
  FltAttentionArgs args;
  args.kernel = &kernel;
  args.rows.length = kLength;
  args.rows.positions = at.data();
  args.q = Dense(q.data(), 1, kLength, kDim);
  args.k = Dense(k.data(), 1, kLength, kDim);
  args.v = Dense(v.data(), 1, kLength, kDim);
  args.out = DenseOut(out.data(), 1, kLength, kDim);
  if (const absl::Status status = backend.FltAttention(args); !status.ok()) {
    fmt::print(stderr, "{}\n", status.ToString());
    std::exit(1);
  }
  reference::FltProblem problem = reference::MakeProblem(kernel);
  problem.length = kLength;
  problem.at.assign(at.begin(), at.end());
  problem.q.assign(q.begin(), q.end());
  problem.k.assign(k.begin(), k.end());
  problem.v.assign(v.begin(), v.end());
  const std::vector<double> exact =
      reference::Attend(problem, reference::AttentionMethod::kExactSoftmax);
  double error = 0, square = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    error += std::pow(static_cast<double>(out[i]) - exact[i], 2);
    square += exact[i] * exact[i];
  }
  return std::sqrt(error / square);
}

void Report(std::string_view sweep, const Setting& s, Backend& backend) {
  double square = 0;
  for (uint64_t seed = 1; seed <= kDraws; ++seed) square += std::pow(ErrorOf(s, backend, seed), 2);
  fmt::print("{},{},{},{},{},{},{},{},{:.4f}\n", sweep, s.map, RpeKindName(s.rpe),
             s.form == MaskForm::kAdditive ? "additive" : "multiplicative",
             s.norms == RowNorms::kRoot ? "root" : "chi", s.features, s.waves, s.norm,
             std::sqrt(square / kDraws));
}

// How far the mask of r waves is from the one that its spectrum is the transform of.
void ReportMask(RpeKind kind, size_t waves) {
  double error = 0, square = 0;
  for (uint64_t seed = 1; seed <= kDraws; ++seed) {
    RpeSpec spec = {.kind = kind,
                    .positions = 1,
                    .waves = waves,
                    .modes = 1,
                    .frequency_scale = 0.1,
                    .norm_max = 0,
                    .base = {},
                    .parameters = {}};
    spec.base = DrawBaseFrequencies(waves, 1, seed);
    spec.parameters = ParametersOf({.rpe = kind});
    const FltWaves made = *MakeWaves(spec);
    for (int z = -48; z <= 48; ++z) {
      double mask = 0;
      for (size_t m = 0; m < waves; ++m) {
        mask += static_cast<double>(made.real[m]) *
                std::cos(2 * M_PI * static_cast<double>(made.frequencies[m]) * z);
      }
      double exact = 0;
      if (kind == RpeKind::kLocalBox) exact = std::abs(z) <= 8 ? 0.7 : 0;
      if (kind == RpeKind::kShiftInvariant) exact = 0.7 * std::exp(-z * z / 128.0);
      if (kind == RpeKind::kGaussianMixture) {
        const double s = 0.05;
        exact = 6 * std::sqrt(M_PI) * s * std::exp(-std::pow(M_PI * s * z, 2)) *
                std::cos(2 * M_PI * 0.05 * z);
      }
      error += std::pow(mask - exact, 2);
      square += exact * exact;
    }
  }
  fmt::print("mask,,{},,,,{},,{:.4f}\n", RpeKindName(kind), waves, std::sqrt(error / square));
}

void Main() {
  const auto backend = *CreateBackend("cpu", {.threads = 1});
  fmt::print("sweep,map,rpe,form,norms,features,waves,norm,error\n");
  const char* const maps[] = {"favor_plus", "favor_plus_plus", "hyperbolic", "relu", "elu", "dpfp"};
  for (const char* map : maps) {
    for (const size_t features : {16U, 32U, 64U, 128U, 256U}) {
      Report("features", {.map = map, .features = features}, *backend);
    }
    for (const double norm : {0.25, 0.5, 1.0, 1.5, 2.0, 3.0}) {
      Report("norm", {.map = map, .features = 128, .norm = norm}, *backend);
    }
  }
  for (const RowNorms norms : {RowNorms::kRoot, RowNorms::kChi}) {
    for (const double norm : {0.5, 1.0, 2.0}) {
      Report("rows", {.norms = norms, .features = 256, .norm = norm}, *backend);
    }
  }
  for (const RpeKind kind :
       {RpeKind::kGaussianMixture, RpeKind::kShiftInvariant, RpeKind::kLocalBox}) {
    for (const size_t waves : {4U, 8U, 16U, 32U, 64U, 128U}) ReportMask(kind, waves);
    for (const MaskForm form : {MaskForm::kAdditive, MaskForm::kMultiplicative}) {
      for (const size_t waves : {4U, 8U, 16U, 32U, 64U}) {
        Report("waves", {.rpe = kind, .form = form, .features = 128, .waves = waves}, *backend);
      }
    }
  }
}

}  // namespace
}  // namespace mnemosyne::kernels

int main() { mnemosyne::kernels::Main(); }
