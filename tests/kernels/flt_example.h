// Problems of FLT attention for tests: numbers, a kernel, and a call on a backend.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/flt/rpe.h"
#include "kernels/reference/flt_reference.h"
#include "tests/testing/random_floats.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::kernels {

// What a test varies.
struct FltCase {
  std::string map = "favor_plus";
  RpeKind rpe = RpeKind::kGaussianMixture;
  size_t positions = 1;
  bool is_signed = false;
  MaskForm form = MaskForm::kAdditive;
  bool squared = false;
  bool clamp = false;
  bool causal = false;
  size_t batch = 2, heads = 2, length = 37, dim = 16, value_dim = 16, features = 32, waves = 8;
  float size = 1;  // Of q and k.
  bool padded = false;
  bool packed = false;
  float shift = 0;  // Of positions.
  float amplitude = 0.3F;

  friend void PrintTo(const FltCase& c, std::ostream* out) {
    *out << c.map << "_" << RpeKindName(c.rpe) << c.positions << (c.is_signed ? "_signed" : "")
         << (c.form == MaskForm::kMultiplicative ? "_times" : "") << (c.squared ? "_squared" : "")
         << (c.clamp ? "_clamped" : "") << (c.causal ? "_causal" : "")
         << (c.padded ? "_padded" : "") << (c.packed ? "_packed" : "") << "_l" << c.length << "_d"
         << c.dim << "_" << c.value_dim << "_m" << c.features;
  }
};

inline std::vector<float> FltNumbers(size_t count, uint32_t seed, float scale) {
  std::vector<float> numbers = testing::NormalFloats(count, seed);
  for (float& number : numbers) number *= scale;
  return numbers;
}

inline RpeSpec SpecOf(const FltCase& c) {
  RpeSpec spec = {.kind = c.rpe,
                  .heads = c.heads,
                  .positions = c.positions,
                  .waves = c.waves,
                  .modes = 3,
                  .is_signed = c.is_signed,
                  .form = c.form,
                  .squared = c.squared,
                  .frequency_scale = 0.2,
                  .norm_max = 0.8,
                  .base = DrawBaseFrequencies(c.waves, c.positions, 7),
                  .parameters = {}};
  const size_t count = RpeParameterCount(spec);
  spec.parameters = FltNumbers(c.heads * count, 11, 0.3F);
  for (size_t h = 0; h < c.heads && count > 0; ++h) {
    float* const own = spec.parameters.data() + h * count;
    if (c.rpe != RpeKind::kGaussianMixture) own[0] = c.amplitude;
    if (c.form == MaskForm::kMultiplicative) own[count - 1] = c.squared || c.clamp ? 0.02F : 1.0F;
  }
  return spec;
}

// A kernel with rows and tensors, all on the host.
struct FltExample {
  explicit FltExample(const FltCase& c) : example(c) {
    const RpeSpec spec = SpecOf(c);
    FltWaves waves = *MakeWaves(spec);
    FltConfig config = {.heads = c.heads,
                        .dim = c.dim,
                        .value_dim = c.value_dim,
                        .feature_map = c.map,
                        .features = c.features,
                        .form = c.form,
                        .clamp_negative_masks = c.clamp};
    const size_t inputs = c.dim + (c.form == MaskForm::kAdditive ? 2 * waves.waves : 0);
    if (c.map == "elu") config.features = inputs;
    if (c.map == "dpfp") config.features = 2 * inputs;
    const FltProjectionShape shape = *FltProjectionOf(config, waves.waves);
    const auto made = MakeFltKernel(config, std::move(waves),
                                    DrawProjection(shape.rows, shape.inputs, RowNorms::kRoot, 3));
    EXPECT_OK(made);
    kernel = *made;
    const size_t rows = c.batch * c.heads * c.length;
    q = FltNumbers(rows * c.dim, 1, c.size);
    k = FltNumbers(rows * c.dim, 2, c.size);
    v = FltNumbers(rows * c.value_dim, 3, 1);
    out.assign(rows * c.value_dim, -7);
    for (size_t i = 0; i < c.length * c.positions; ++i) {
      const float at = static_cast<float>(i / c.positions) * (i % c.positions == 1 ? 0.5F : 1.0F);
      positions.push_back(at + c.shift);
    }
    if (c.padded) {
      for (size_t i = 0; i < c.batch * c.length; ++i) {
        mask.push_back(i % 5 == 3 || i % c.length < 2 ? 0 : 1);
      }
    }
    if (c.packed) starts = {0, c.length / 3, c.length / 3, c.length - 1, c.length};
  }

  FltRows Rows() const {
    return {.batch = example.batch,
            .length = example.length,
            .causal = example.causal,
            .sequence_starts = starts,
            .mask = mask.empty() ? nullptr : mask.data(),
            .positions = positions.data()};
  }

  FltAttentionArgs Args() {
    const auto& c = example;
    return {.kernel = &kernel,
            .rows = Rows(),
            .q = Dense(q.data(), c.heads, c.length, c.dim),
            .k = Dense(k.data(), c.heads, c.length, c.dim),
            .v = Dense(v.data(), c.heads, c.length, c.value_dim),
            .out = DenseOut(out.data(), c.heads, c.length, c.value_dim)};
  }

  reference::FltProblem Problem() const {
    reference::FltProblem p = reference::MakeProblem(kernel);
    p.batch = example.batch;
    p.length = example.length;
    p.causal = example.causal;
    p.sequence_starts = starts;
    p.mask = mask;
    p.at.assign(positions.begin(), positions.end());
    p.q.assign(q.begin(), q.end());
    p.k.assign(k.begin(), k.end());
    p.v.assign(v.begin(), v.end());
    return p;
  }

  FltCase example;
  FltKernel kernel;
  std::vector<float> q, k, v, out, positions;
  std::vector<uint8_t> mask;
  std::vector<size_t> starts;
};

// The greatest difference, relative to the root of the mean square.
template <typename A, typename B>
double Distance(const std::vector<A>& actual, const std::vector<B>& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double most = 0, square = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const auto a = static_cast<double>(actual[i]), b = static_cast<double>(expected[i]);
    if (std::isnan(a)) return std::numeric_limits<double>::infinity();
    most = std::max(most, std::abs(a - b));
    square += b * b;
  }
  return most / std::max(std::sqrt(square / static_cast<double>(actual.size())), 1e-300);
}

}  // namespace mnemosyne::kernels
