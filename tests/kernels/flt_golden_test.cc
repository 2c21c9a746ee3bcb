// FLT attention and its gradients against JAX (metatrain/scripts/make_flt_golden.py).
#include <cmath>

#include "base/safetensors.h"
#include "kernels/backend.h"
#include "kernels/flt/rpe.h"
#include "tests/kernels/flt_example.h"

namespace mnemosyne::kernels {
namespace {

constexpr size_t kDim = 6, kWidth = 5, kFeatures = 12, kWaves = 4, kModes = 3;

// |a - b| over the root of the mean square.
constexpr double kTolerance = 3e-5;

class FltGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::vector<float> Get(const std::string& name) const {
    const SafetensorsTensor* const tensor = file_.Find(GetParam() + "." + name);
    EXPECT_NE(tensor, nullptr) << name;
    return tensor == nullptr ? std::vector<float>() : *file_.Floats(*tensor);
  }

  // The parameters of a head in their order, or their gradients.
  std::vector<float> Parameters(const std::string& prefix, bool mixture, bool times) const {
    std::vector<std::string> names = {"amplitude", Width(), "offset"};
    if (mixture) names = {"weights", "odd_weights", "centers", "log_variances"};
    std::vector<float> all;
    for (const std::string& name : names) {
      const std::vector<float> part = Get(prefix + "parameter." + name);
      all.insert(all.end(), part.begin(), part.end());
    }
    if (times) all.push_back(Get(prefix + "constant")[0]);
    return all;
  }

  static std::string Width() {
    return GetParam().starts_with("shift_invariant") ? "log_precisions" : "log_radius";
  }

  const Safetensors file_ =
      *Safetensors::Read(MNEMOSYNE_SOURCE_FOLDER "/tests/golden/flt.safetensors", size_t{1} << 20);
};

TEST_P(FltGoldenTest, OutputsAndGradientsAreThoseOfJax) {
  const std::string& name = GetParam();
  const bool times = name.ends_with("times"), causal = name.find("causal") != std::string::npos;
  const RpeKind kind = *RpeKindOf(name.substr(0, name.find('.')));
  const RpeSpec spec = {.kind = kind,
                        .positions = kind == RpeKind::kLocalBall ? 3U : 2U,
                        .waves = kWaves,
                        .modes = kModes,
                        .is_signed = true,
                        .form = times ? MaskForm::kMultiplicative : MaskForm::kAdditive,
                        .frequency_scale = 0.4,
                        .norm_max = 0.5,
                        .base = Get("base"),
                        .parameters = Parameters("", kind == RpeKind::kGaussianMixture, times)};
  const FltConfig config = {
      .dim = kDim, .value_dim = kWidth, .features = kFeatures, .form = spec.form};
  const auto kernel = MakeFltKernel(config, *MakeWaves(spec), Get("projection"));
  ASSERT_OK(kernel);
  const std::vector<float> q = Get("q"), k = Get("k"), v = Get("v"), at = Get("positions"),
                           upstream = Get("upstream");
  const size_t length = q.size() / kDim;
  std::vector<float> out(v.size()), normalizers(2 * length), dq(q.size()), dk(k.size()),
      dv(v.size()), projection(kernel->projection.size()), frequencies(kWaves * spec.positions),
      real(kWaves), imaginary(kWaves), constant(1);
  const auto backend = *CreateBackend("cpu", {.threads = 1});
  const FltRows rows = {
      .length = length, .causal = causal, .sequence_starts = {}, .positions = at.data()};

  ASSERT_OK(backend->FltAttention({.kernel = &*kernel,
                                   .rows = rows,
                                   .q = Dense(q.data(), 1, length, kDim),
                                   .k = Dense(k.data(), 1, length, kDim),
                                   .v = Dense(v.data(), 1, length, kWidth),
                                   .out = DenseOut(out.data(), 1, length, kWidth),
                                   .normalizers = normalizers.data()}));
  ASSERT_OK(
      backend->FltAttentionBackward({.kernel = &*kernel,
                                     .rows = rows,
                                     .q = Dense(q.data(), 1, length, kDim),
                                     .k = Dense(k.data(), 1, length, kDim),
                                     .v = Dense(v.data(), 1, length, kWidth),
                                     .out = Dense(out.data(), 1, length, kWidth),
                                     .normalizers = normalizers.data(),
                                     .out_gradient = Dense(upstream.data(), 1, length, kWidth),
                                     .q_gradient = DenseOut(dq.data(), 1, length, kDim),
                                     .k_gradient = DenseOut(dk.data(), 1, length, kDim),
                                     .v_gradient = DenseOut(dv.data(), 1, length, kWidth),
                                     .projection_gradient = projection.data(),
                                     .frequency_gradient = frequencies.data(),
                                     .real_gradient = real.data(),
                                     .imaginary_gradient = imaginary.data(),
                                     .constant_gradient = constant.data()}));

  EXPECT_LE(Distance(out, Get("out")), kTolerance);
  EXPECT_LE(Distance(dq, Get("d.q")), kTolerance);
  EXPECT_LE(Distance(dk, Get("d.k")), kTolerance);
  EXPECT_LE(Distance(dv, Get("d.v")), kTolerance);
  EXPECT_LE(Distance(projection, Get("d.projection")), kTolerance);
  const auto parameters = RpeGradient(spec, {frequencies, real, imaginary, constant});
  ASSERT_OK(parameters);
  EXPECT_LE(Distance(*parameters, Parameters("d.", kind == RpeKind::kGaussianMixture, times)),
            kTolerance);
}

std::vector<std::string> Cases() {
  std::vector<std::string> names;
  for (const char* kind : {"gaussian_mixture", "shift_invariant", "local_box", "local_ball"}) {
    for (const char* way : {"both", "causal"}) {
      for (const char* form : {"plus", "times"}) {
        names.push_back(fmt::format("{}.{}.{}", kind, way, form));
      }
    }
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Jax, FltGoldenTest, ::testing::ValuesIn(Cases()), [](const auto& golden) {
  std::string name = golden.param;
  std::ranges::replace(name, '.', '_');
  return name;
});

}  // namespace
}  // namespace mnemosyne::kernels
