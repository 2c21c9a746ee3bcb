// The ops over rows, and what is made of weights for them, against what metatrain's components give
// (make_golden.py).
#include <cmath>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "kernels/backend.h"
#include "kernels/components/feature_map.h"
#include "kernels/components/projection.h"
#include "kernels/components/spectrum.h"
#include "tests/optim/golden.h"
#include "tests/testing/model_files.h"
#include "tests/testing/random_floats.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

using kernels::Activation;
using kernels::CwyProjection;
using kernels::EvaluateMask;
using kernels::FeatureMapConfig;
using kernels::GaussianMixtureSpectrum;
using kernels::HouseholderProduct;
using kernels::LocalBallSpectrum;
using kernels::LocalBoxSpectrum;
using kernels::MakeFeatureMap;
using kernels::MakePositionalFeatures;
using kernels::OrthogonalFactor;
using kernels::PositionalFeatures;
using kernels::ProjectionRows;
using kernels::ShiftInvariantSpectrum;
using kernels::Spectrum;
using testing::IsError;

constexpr double kTolerance = 2e-6;  // |a - b| / |b|
constexpr size_t kInputs = 6, kFeatures = 12, kWidth = 5, kLength = 9;

class ComponentsTest : public ::testing::Test {
 protected:
  ComponentsTest()
      : file_(*Safetensors::Read(testing::SourceFolder() + "/tests/golden/components.safetensors",
                                 size_t{1} << 20)),
        backend_(*kernels::CreateBackend("cpu", {.threads = 1})) {}

  std::vector<float> Get(const std::string& name) const {
    const SafetensorsTensor* const tensor = file_.Find(name);
    EXPECT_NE(tensor, nullptr) << name;
    return tensor == nullptr ? std::vector<float>() : *file_.Floats(*tensor);
  }

  void ExpectGolden(const std::vector<float>& actual, const std::string& name,
                    double tolerance = kTolerance) const {
    EXPECT_LE(RelativeDistance(actual, Get(name)), tolerance) << name;
  }

  const Safetensors file_;
  const std::unique_ptr<kernels::Backend> backend_;
};

TEST_F(ComponentsTest, FeatureMaps) {
  const std::vector<float> x = Get("map.x");
  for (const std::string kind :
       {"favor_plus", "favor_plus_plus", "hyperbolic", "relu", "elu", "dpfp"}) {
    const FeatureMapConfig config = {.kind = kind,
                                     .inputs = kInputs,
                                     .features = kind == "elu" ? kInputs : 2 * kFeatures,
                                     .square_sum = 1.5,
                                     .epsilon = 0.01};
    std::vector<float> projection;
    if (*ProjectionRows(config) > 0) projection = Get("map." + kind + ".projection");
    const auto map = MakeFeatureMap(config, projection);
    ASSERT_OK(map);
    std::vector<float> phi(kLength * config.features);

    ASSERT_OK(backend_->FeatureMap({kLength,
                                    map->sizes,
                                    {x.data(), kInputs},
                                    map->weights.data(),
                                    map->bias.empty() ? nullptr : map->bias.data(),
                                    {phi.data(), config.features}}));

    ExpectGolden(phi, "map." + kind);
  }
}

TEST_F(ComponentsTest, FeatureMapsRefuseSizesThatDoNotFit) {
  const auto refused = [](std::string_view kind, size_t inputs, size_t features) {
    return MakeFeatureMap({.kind = kind, .inputs = inputs, .features = features}, {});
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(refused("trigonometric", 2, 4), IsError(kInvalid, "unknown feature map"));
  EXPECT_THAT(refused("elu", 2, 4), IsError(kInvalid, "4 features of 2 inputs do not fit"));
  EXPECT_THAT(refused("hyperbolic", 2, 3), IsError(kInvalid, "do not fit the map hyperbolic"));
  EXPECT_THAT(refused("favor_plus", 2, 129), IsError(kInvalid, "do not fit"));
  EXPECT_THAT(refused("relu", 2, 3), IsError(kInvalid, "has 0 numbers, expected 6"));
}

TEST_F(ComponentsTest, BidirectionalAttention) {
  const auto q = Get("attention.phi_q"), k = Get("attention.phi_k"), v = Get("attention.values");
  const auto mask = Get("attention.mask");
  const std::vector<size_t> starts = {0, kLength};
  std::vector<float> out(kLength * kWidth);

  ASSERT_OK(backend_->BidirectionalAttention({starts,
                                              {kFeatures, kWidth},
                                              {q.data(), kFeatures},
                                              {k.data(), kFeatures},
                                              {v.data(), kWidth},
                                              mask.data(),
                                              {out.data(), kWidth}}));

  ExpectGolden(out, "attention.bidirectional");
}

TEST_F(ComponentsTest, CausalAttentionIsAnAdditiveMemory) {
  const auto q = Get("attention.phi_q"), k = Get("attention.phi_k"), v = Get("attention.values");
  const std::vector<float> discounts = {0.75F};
  std::vector<float> content(kFeatures * kWidth), normalizer(kFeatures), out(kLength * kWidth);

  ASSERT_OK(backend_->AdditiveMemory({{1,
                                       kLength,
                                       1,
                                       {kFeatures, kWidth},
                                       discounts.data(),
                                       q.data(),
                                       k.data(),
                                       v.data(),
                                       content.data(),
                                       out.data()},
                                      normalizer.data()}));

  ExpectGolden(out, "attention.causal");
  ExpectGolden(content, "attention.content");
  ExpectGolden(normalizer, "attention.normalizer");
}

TEST_F(ComponentsTest, DeltaMemory) {
  const auto q = Get("attention.phi_q"), k = Get("attention.phi_k"), v = Get("attention.values");
  const auto betas = Get("delta.betas");
  const std::vector<float> discounts = {0.875F};
  std::vector<float> content(kFeatures * kWidth), out(kLength * kWidth);

  ASSERT_OK(backend_->DeltaMemory({{1,
                                    kLength,
                                    1,
                                    {kFeatures, kWidth},
                                    discounts.data(),
                                    q.data(),
                                    k.data(),
                                    v.data(),
                                    content.data(),
                                    out.data()},
                                   betas.data()}));

  ExpectGolden(out, "delta.out");
  ExpectGolden(content, "delta.content");
}

TEST_F(ComponentsTest, RecurrentDeltaMemoryIsMadeOfLayersAndADeltaMemory) {
  const auto x = Get("recurrent.x");
  const std::vector<float> discounts = {0.9375F};
  std::vector<float> content(kFeatures * kWidth), last(kWidth), outputs;
  // W x + R tanh(y)
  const auto project = [&](const std::string& name, size_t step, size_t width,
                           Activation activation) {
    std::vector<float> y(width), hidden(kWidth);
    std::vector<float> identity(kWidth * kWidth);
    for (size_t i = 0; i < kWidth; ++i) identity[i * (kWidth + 1)] = 1;
    EXPECT_OK(backend_->DenseLayer({1,
                                    {kWidth, kWidth, Activation::kTanh, false},
                                    {last.data(), kWidth},
                                    identity.data(),
                                    nullptr,
                                    {hidden.data(), kWidth}}));
    const auto weights = Get("recurrent." + name), recurrent = Get("recurrent.recurrent_" + name);
    EXPECT_OK(backend_->DenseLayer({1,
                                    {kInputs, width, Activation::kNone, false},
                                    {x.data() + step * kInputs, kInputs},
                                    weights.data(),
                                    nullptr,
                                    {y.data(), width}}));
    EXPECT_OK(backend_->DenseLayer({1,
                                    {kWidth, width, Activation::kNone, true},
                                    {hidden.data(), kWidth},
                                    recurrent.data(),
                                    nullptr,
                                    {y.data(), width}}));
    if (activation == Activation::kSigmoid) y[0] = 1 / (1 + std::exp(-y[0]));
    return y;
  };
  const auto features = [&](const std::vector<float>& y) {
    std::vector<float> phi(kFeatures);
    EXPECT_OK(backend_->FeatureMap({1,
                                    {kernels::FeatureMapShape::kElu, kFeatures, kFeatures, 1, 0},
                                    {y.data(), kFeatures},
                                    nullptr,
                                    nullptr,
                                    {phi.data(), kFeatures}}));
    return phi;
  };

  for (size_t step = 0; step < kLength; ++step) {
    const auto query = features(project("query", step, kFeatures, Activation::kNone));
    const auto key = features(project("key", step, kFeatures, Activation::kNone));
    const auto value = project("value", step, kWidth, Activation::kNone);
    const auto beta = project("beta", step, 1, Activation::kSigmoid);
    ASSERT_OK(backend_->DeltaMemory({{1,
                                      1,
                                      1,
                                      {kFeatures, kWidth},
                                      discounts.data(),
                                      query.data(),
                                      key.data(),
                                      value.data(),
                                      content.data(),
                                      last.data()},
                                     beta.data()}));
    outputs.insert(outputs.end(), last.begin(), last.end());
  }

  ExpectGolden(outputs, "recurrent.out");
}

TEST_F(ComponentsTest, PositionalFeatures) {
  const auto get = [&](const std::string& kind, const std::string& name) {
    return Get("flt." + kind + "." + name);
  };
  constexpr double kScale = 1.5, kNormMax = 0.5;
  for (const std::string kind :
       {"gaussian_mixture", "shift_invariant", "local_box", "local_ball"}) {
    const auto base = get(kind, "base");
    Spectrum spectrum;
    if (kind == "gaussian_mixture") {
      const auto weights = get(kind, "weights"), odd = get(kind, "odd_weights");
      const auto centers = get(kind, "centers"), variances = get(kind, "log_variances");
      spectrum =
          GaussianMixtureSpectrum({weights, odd, centers, variances}, base, 2, kScale, kNormMax);
    } else {
      const float amplitude = get(kind, "amplitude")[0];
      const auto offset = get(kind, "offset");
      if (kind == "shift_invariant") {
        spectrum =
            ShiftInvariantSpectrum(amplitude, get(kind, "log_precisions"), offset, base, kNormMax);
      } else if (kind == "local_box") {
        spectrum =
            LocalBoxSpectrum(amplitude, get(kind, "log_radius"), offset, base, kScale, kNormMax);
      } else {
        spectrum = LocalBallSpectrum(amplitude, get(kind, "log_radius")[0], offset, base, kScale,
                                     kNormMax);
      }
    }

    const PositionalFeatures features = MakePositionalFeatures(spectrum, get(kind, "positions"));

    ExpectGolden(features.query, "flt." + kind + ".query");
    ExpectGolden(features.key, "flt." + kind + ".key");
  }
}

// The dot product of a query's and a key's numbers is the mask of their offset.
TEST_F(ComponentsTest, PositionalFeaturesMultiplyToTheMask) {
  const std::vector<float> weights = {0.3F, -0.2F}, odd = {0.1F, 0.4F};
  const std::vector<float> centers = {0.1F, 0.2F, -1, 0.4F}, variances = {0, 0.5F};
  const std::vector<float> positions = {0.25F, 0.5F, 0.875F, 0};
  const Spectrum spectrum = GaussianMixtureSpectrum({weights, odd, centers, variances},
                                                    testing::NormalFloats(16, 1), 2, 1, 0.5);

  const PositionalFeatures features = MakePositionalFeatures(spectrum, positions);

  double product = 0;
  for (size_t k = 0; k < 16; ++k) {
    product += static_cast<double>(features.query[k]) * static_cast<double>(features.key[16 + k]);
  }
  EXPECT_NEAR(product, EvaluateMask(spectrum, std::vector<double>{0.25 - 0.875, 0.5}), 1e-6);
}

TEST_F(ComponentsTest, Projections) {
  ExpectGolden(CwyProjection(Get("cwy.vectors"), Get("cwy.norms"), 2, kInputs), "cwy.matrix");
  const std::vector<double> factor = OrthogonalFactor(Get("qr.gaussian"), kInputs);
  ExpectGolden({factor.begin(), factor.end()}, "qr.factor");
}

TEST_F(ComponentsTest, ProjectionsAreOrthogonalWhateverTheVectors) {
  std::vector<float> vectors = testing::NormalFloats(16 * 16, 3);
  for (size_t i = 0; i < 16; ++i) vectors[i] = 0;                      // No reflection.
  for (size_t i = 16; i < 32; ++i) vectors[i] *= 1e-10F;               // A short one.
  for (size_t i = 32; i < 48; ++i) vectors[i] = vectors[48 + i - 32];  // Twice the same.
  const std::vector<double> q = HouseholderProduct(vectors, 16, 9);

  for (size_t a = 0; a < 9; ++a) {
    for (size_t b = 0; b < 9; ++b) {
      double product = 0;
      for (size_t i = 0; i < 16; ++i) product += q[i * 9 + a] * q[i * 9 + b];
      EXPECT_NEAR(product, a == b ? 1 : 0, 1e-12);
    }
  }
}

}  // namespace
}  // namespace mnemosyne::optim
