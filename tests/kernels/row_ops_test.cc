#include "kernels/row_ops.h"

#include <cmath>
#include <numeric>

#include "kernels/cpu/instruction_set.h"
#include "kernels/reference/row_reference.h"
#include "tests/kernels/backend_param.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::kernels {
namespace {

using testing::NormalFloats;

constexpr size_t kRowCounts[] = {1, 7, 33, 1000};

// Numbers of about the size that a normalized token has.
std::vector<float> Numbers(size_t count, uint32_t seed, float scale = 0.4F) {
  std::vector<float> numbers = NormalFloats(count, seed);
  for (float& number : numbers) number *= scale;
  return numbers;
}

std::vector<float> Positive(size_t count, uint32_t seed) {
  std::vector<float> numbers = NormalFloats(count, seed);
  for (float& number : numbers) number = std::abs(number) + 0.01F;
  return numbers;
}

void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected,
                double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double scale = std::max(1.0, std::abs(static_cast<double>(expected[i])));
    ASSERT_NEAR(actual[i], expected[i], tolerance * scale) << "element " << i;
  }
}

// One call of each op with its memory on the host. Run calls it with pointers to copies on a
// device.
struct DenseCase {
  size_t rows;
  DenseSizes sizes;
  size_t x_gap = 0;  // Between rows.
  size_t y_gap = 0;
  bool bias = true;
};

const DenseCase kDenseCases[] = {{33, {11, 16, Activation::kTanh, false}},
                                 {33, {16, 33, Activation::kNone, false}},
                                 {1000, {32, 32, Activation::kRelu, false}},
                                 {7, {1, 1, Activation::kSigmoid, false}},
                                 {100, {17, 40, Activation::kNone, true}, 5, 3, false},
                                 {1, {1024, 1024, Activation::kNone, false}},
                                 {19, {20, 15, Activation::kTanh, false}, 3, 9, false}};

struct MapCase {
  FeatureMapSizes sizes;
  bool bias = false;
};

const MapCase kMapCases[] = {{{FeatureMapShape::kExponential, 12, 16, 0.25F, 0}},
                             {{FeatureMapShape::kExponential, 20, 33, 0.2F, 0}, true},
                             {{FeatureMapShape::kHyperbolic, 8, 34, 0.2F, 0}},
                             {{FeatureMapShape::kRelu, 12, 24, 0.3F, 1e-2F}},
                             {{FeatureMapShape::kElu, 19, 19, 1, 0}},
                             {{FeatureMapShape::kDpfp, 5, 30, 1, 0}},
                             {{FeatureMapShape::kDpfp, 1, 6, 1, 0}},
                             {{FeatureMapShape::kExponential, 128, 128, 0.1F, 0}}};

constexpr AttentionSizes kAttentionSizes[] = {{16, 16}, {1, 1}, {33, 17}, {128, 64}, {5, 40}};

class RowOpsTest : public BackendTest {};

TEST_P(RowOpsTest, DenseLayerMatchesReference) {
  for (const DenseCase& example : kDenseCases) {
    const DenseSizes& sizes = example.sizes;
    SCOPED_TRACE(fmt::format("{} x {} to {}", example.rows, sizes.inputs, sizes.outputs));
    const size_t x_stride = sizes.inputs + example.x_gap, y_stride = sizes.outputs + example.y_gap;
    const auto x = Numbers(example.rows * x_stride, 1);
    const auto weights =
        Numbers(sizes.inputs * sizes.outputs, 2, 1 / std::sqrt(static_cast<float>(sizes.inputs)));
    const auto bias = Numbers(sizes.outputs, 3);
    auto expected = Numbers(example.rows * y_stride, 4);
    const Buffer y = Put(expected), x_there = Put(x), weights_there = Put(weights);
    const Buffer bias_there = Put(bias);
    DenseLayerArgs args{example.rows,
                        sizes,
                        {x.data(), x_stride},
                        weights.data(),
                        example.bias ? bias.data() : nullptr,
                        {expected.data(), y_stride}};
    reference::DenseLayer(args);
    args.x.data = x_there.as<float>();
    args.weights = weights_there.as<float>();
    if (example.bias) args.bias = bias_there.as<float>();
    args.y.data = y.as<float>();

    ASSERT_OK(backend_->DenseLayer(args));

    ExpectNear(Get<float>(y), expected, 4e-6);  // Also what lies between the rows.
  }
}

TEST_P(RowOpsTest, FeatureMapMatchesReference) {
  for (const MapCase& example : kMapCases) {
    const FeatureMapSizes& sizes = example.sizes;
    for (const size_t rows : kRowCounts) {
      SCOPED_TRACE(fmt::format("shape {}, {} x {} to {}", static_cast<int>(sizes.shape), rows,
                               sizes.inputs, sizes.features));
      const auto x =
          Numbers(rows * sizes.inputs, 1, 1 / std::sqrt(static_cast<float>(sizes.inputs)));
      const auto weights = NormalFloats(sizes.inputs * ProjectionCount(sizes) + 1, 2);
      const auto bias = Numbers(sizes.features, 3);
      std::vector<float> expected(rows * sizes.features);
      const Buffer phi = Put(expected), x_there = Put(x), weights_there = Put(weights);
      const Buffer bias_there = Put(bias);
      FeatureMapArgs args{rows,
                          sizes,
                          {x.data(), sizes.inputs},
                          weights.data(),
                          example.bias ? bias.data() : nullptr,
                          {expected.data(), sizes.features}};
      reference::FeatureMap(args);
      args.x.data = x_there.as<float>();
      args.weights = weights_there.as<float>();
      if (example.bias) args.bias = bias_there.as<float>();
      args.phi.data = phi.as<float>();

      ASSERT_OK(backend_->FeatureMap(args));

      ExpectNear(Get<float>(phi), expected, 3e-6);
    }
  }
}

TEST_P(RowOpsTest, ExponentialsStayFiniteAndPositive) {
  const FeatureMapSizes sizes = {FeatureMapShape::kExponential, 1, 1, 1, 0};
  const std::vector<float> x = {-1e30F, -200, -20, 0, 3, 1e30F}, weights = {100};
  const Buffer x_there = Put(x), weights_there = Put(weights);
  const Buffer phi = Put(std::vector<float>(x.size()));

  ASSERT_OK(backend_->FeatureMap({x.size(),
                                  sizes,
                                  {x_there.as<float>(), 1},
                                  weights_there.as<float>(),
                                  nullptr,
                                  {phi.as<float>(), 1}}));

  for (const float number : Get<float>(phi)) {
    EXPECT_TRUE(std::isfinite(number));
    EXPECT_GT(number, 0);
  }
}

TEST_P(RowOpsTest, BidirectionalAttentionMatchesReference) {
  const std::vector<size_t> starts = {0, 1, 9, 40, 41, 300};
  const size_t rows = starts.back();
  for (const AttentionSizes& sizes : kAttentionSizes) {
    for (const bool weighted : {false, true}) {
      SCOPED_TRACE(fmt::format("{} features, width {}", sizes.features, sizes.width));
      const auto phi_q = Positive(rows * sizes.features, 1);
      const auto phi_k = Positive(rows * sizes.features, 2);
      const auto values = NormalFloats(rows * sizes.width, 3);
      std::vector<float> row_weights(rows, 1);
      for (size_t i = 0; i < rows; i += 3) row_weights[i] = 0;  // Row 0 is alone in its group.
      std::vector<float> expected(rows * sizes.width, 9);
      const Buffer out = Put(expected), q = Put(phi_q), k = Put(phi_k), v = Put(values);
      const Buffer w = Put(row_weights);
      BidirectionalAttentionArgs args{starts,
                                      sizes,
                                      {phi_q.data(), sizes.features},
                                      {phi_k.data(), sizes.features},
                                      {values.data(), sizes.width},
                                      weighted ? row_weights.data() : nullptr,
                                      {expected.data(), sizes.width}};
      reference::BidirectionalAttention(args);
      args.phi_q.data = q.as<float>();
      args.phi_k.data = k.as<float>();
      args.values.data = v.as<float>();
      if (weighted) args.row_weights = w.as<float>();
      args.out.data = out.as<float>();

      ASSERT_OK(backend_->BidirectionalAttention(args));

      const std::vector<float> actual = Get<float>(out);
      ExpectNear(actual, expected, 5e-6);
      if (weighted) {
        EXPECT_EQ(actual[0], 0);  // No key answers.
      }
    }
  }
}

// The memory of an op on memories, on the host.
struct MemoryCase {
  AttentionSizes sizes;
  size_t memories, steps, heads;
};

const MemoryCase kMemoryCases[] = {{{16, 16}, 100, 1, 2},
                                   {{1, 1}, 6, 3, 1},
                                   {{33, 17}, 9, 5, 3},
                                   {{128, 64}, 4, 2, 4},
                                   {{4, 20}, 1, 50, 1}};

struct MemoryData {
  std::vector<float> discounts, phi_q, phi_k, values, content, normalizer, betas, out;

  explicit MemoryData(const MemoryCase& example) {
    const size_t rows = example.memories * example.steps;
    const auto [features, width] = example.sizes;
    discounts = Positive(example.heads, 1);
    for (float& discount : discounts) discount = 1 / (1 + discount);
    phi_q = Positive(rows * features, 2);
    phi_k = Positive(rows * features, 3);
    values = NormalFloats(rows / example.heads * width, 4);
    content = NormalFloats(example.memories * features * width, 5);
    normalizer = Positive(example.memories * features, 6);
    betas = Positive(rows, 7);
    for (float& beta : betas) beta = 1 / (1 + beta);
    out.assign(rows * width, 0);
  }

  bool operator==(const MemoryData&) const = default;

  MemoryArgs Args(const MemoryCase& example) {
    return {example.memories, example.steps, example.heads, example.sizes,  discounts.data(),
            phi_q.data(),     phi_k.data(),  values.data(), content.data(), out.data()};
  }
};

TEST_P(RowOpsTest, MemoriesMatchReference) {
  for (const MemoryCase& example : kMemoryCases) {
    for (const bool delta : {false, true}) {
      SCOPED_TRACE(fmt::format("{} memories of {} x {}, {}", example.memories,
                               example.sizes.features, example.sizes.width,
                               delta ? "delta" : "additive"));
      MemoryData data(example);
      const Buffer discounts = Put(data.discounts), phi_q = Put(data.phi_q);
      const Buffer phi_k = Put(data.phi_k), values = Put(data.values), out = Put(data.out);
      const Buffer content = Put(data.content), normalizer = Put(data.normalizer);
      const Buffer betas = Put(data.betas);
      MemoryArgs there = data.Args(example);
      if (delta) {
        reference::DeltaMemory({there, data.betas.data()});
      } else {
        reference::AdditiveMemory({there, data.normalizer.data()});
      }
      there.discounts = discounts.as<float>();
      there.phi_q = phi_q.as<float>();
      there.phi_k = phi_k.as<float>();
      there.values = values.as<float>();
      there.content = content.as<float>();
      there.out = out.as<float>();

      if (delta) {
        ASSERT_OK(backend_->DeltaMemory({there, betas.as<float>()}));
      } else {
        ASSERT_OK(backend_->AdditiveMemory({there, normalizer.as<float>()}));
      }

      ExpectNear(Get<float>(content), data.content, 5e-6);
      ExpectNear(Get<float>(normalizer), data.normalizer, 5e-6);
      ExpectNear(Get<float>(out), data.out, 2e-5);
    }
  }
}

// An empty memory answers 0, and a key of zeros writes nothing.
TEST_P(RowOpsTest, ZeroFeaturesAreNoFault) {
  const MemoryCase example = {{3, 2}, 1, 1, 1};
  for (const bool delta : {false, true}) {
    const Buffer discounts = Put(std::vector<float>{0.9F}), zeros = Put(std::vector<float>(6));
    const Buffer values = Put(std::vector<float>{1, 2}), out = Put(std::vector<float>{7, 7});
    const Buffer content = Put(std::vector<float>(6)), normalizer = Put(std::vector<float>(3));
    const Buffer betas = Put(std::vector<float>{0.5F});
    const MemoryArgs args = {1,
                             1,
                             1,
                             example.sizes,
                             discounts.as<float>(),
                             zeros.as<float>(),
                             zeros.as<float>(),
                             values.as<float>(),
                             content.as<float>(),
                             out.as<float>()};

    ASSERT_OK(delta ? backend_->DeltaMemory({args, betas.as<float>()})
                    : backend_->AdditiveMemory({args, normalizer.as<float>()}));

    EXPECT_EQ(Get<float>(out), (std::vector<float>{0, 0}));
    EXPECT_EQ(Get<float>(content), std::vector<float>(6));
  }
}

TEST_P(RowOpsTest, TakesNothing) {
  EXPECT_OK(backend_->DenseLayer({0, {1, 1, Activation::kNone, false}, {}, nullptr, nullptr, {}}));
  EXPECT_OK(
      backend_->FeatureMap({0, {FeatureMapShape::kElu, 1, 1, 1, 0}, {}, nullptr, nullptr, {}}));
  EXPECT_OK(backend_->BidirectionalAttention({{}, {1, 1}, {}, {}, {}, nullptr, {}}));
  MemoryArgs none;
  none.sizes = {1, 1};
  EXPECT_OK(backend_->AdditiveMemory({none, nullptr}));
  EXPECT_OK(backend_->DeltaMemory({none, nullptr}));
}

TEST_P(RowOpsTest, RefusesArgumentsThatDoNotAgree) {
  const auto invalid = [](const char* text) {
    return testing::IsError(absl::StatusCode::kInvalidArgument, text);
  };
  float x[256] = {};
  const DenseLayerArgs dense = {1, {4, 4, Activation::kNone, false}, {x, 4}, x, x, {x, 4}};
  auto d = dense;
  d.sizes.inputs = 1025;
  EXPECT_THAT(backend_->DenseLayer(d), invalid("wrong size: inputs is 1025, expected 1 to 1024"));
  d = dense;
  d.x.stride = 3;
  EXPECT_THAT(backend_->DenseLayer(d), invalid("rows of x are 3 apart, expected at least 4"));
  d = dense;
  d.weights = nullptr;
  EXPECT_THAT(backend_->DenseLayer(d), invalid("missing array: weights"));
  d = dense;
  d.sizes.accumulate = true;
  EXPECT_THAT(backend_->DenseLayer(d), invalid("neither bias nor activation"));

  const FeatureMapArgs map = {1, {FeatureMapShape::kRelu, 4, 4, 1, 0}, {x, 4}, x, nullptr, {x, 4}};
  auto m = map;
  m.sizes.shape = FeatureMapShape::kDpfp;
  EXPECT_THAT(backend_->FeatureMap(m), invalid("4 features of 4 inputs do not fit the map"));
  m = map;
  m.bias = x;
  EXPECT_THAT(backend_->FeatureMap(m), invalid("only an exponential map has a bias"));
  m = map;
  m.phi.stride = 1;
  EXPECT_THAT(backend_->FeatureMap(m), invalid("rows of phi are 1 apart"));

  const std::vector<size_t> empty_group = {0, 0}, late = {1, 2};
  BidirectionalAttentionArgs a = {empty_group, {2, 2}, {x, 2}, {x, 2}, {x, 2}, nullptr, {x, 2}};
  EXPECT_THAT(backend_->BidirectionalAttention(a), invalid("empty group: group 0"));
  a.group_starts = late;
  EXPECT_THAT(backend_->BidirectionalAttention(a), invalid("groups start at row 1"));
  a.sizes.width = 65;
  EXPECT_THAT(backend_->BidirectionalAttention(a), invalid("width is 65, expected 1 to 64"));

  MemoryArgs memory = {3, 1, 2, {2, 2}, x, x, x, x, x, x};
  EXPECT_THAT(backend_->AdditiveMemory({memory, x}), invalid("3 memories have 2 heads"));
  memory.heads = 1;
  EXPECT_THAT(backend_->AdditiveMemory({memory, nullptr}), invalid("missing array: normalizer"));
  EXPECT_THAT(backend_->DeltaMemory({memory, nullptr}), invalid("missing array: betas"));
  memory.content = nullptr;
  EXPECT_THAT(backend_->DeltaMemory({memory, x}), invalid("missing array: content"));
}

INSTANTIATE_TEST_SUITE_P(Backends, RowOpsTest, kAllBackends, BackendParamName);

// All that the ops give on a CPU.
std::vector<float> RunAll(const CpuOptions& options) {
  auto created = CreateBackend("cpu", options);
  EXPECT_OK(created);
  Backend& backend = **created;
  std::vector<float> all;
  const auto keep = [&](const std::vector<float>& numbers) {
    all.insert(all.end(), numbers.begin(), numbers.end());
  };
  constexpr size_t kRows = 2000;
  const auto x = Numbers(kRows * 20, 1), weights = Numbers(20 * 33, 2);
  std::vector<float> y(kRows * 33);
  EXPECT_OK(backend.DenseLayer({kRows,
                                {20, 33, Activation::kTanh, false},
                                {x.data(), 20},
                                weights.data(),
                                nullptr,
                                {y.data(), 33}}));
  keep(y);
  EXPECT_OK(backend.FeatureMap({kRows,
                                {FeatureMapShape::kExponential, 20, 33, 0.2F, 0},
                                {x.data(), 20},
                                weights.data(),
                                nullptr,
                                {y.data(), 33}}));
  keep(y);
  std::vector<size_t> starts(kRows / 40 + 1);
  for (size_t i = 0; i < starts.size(); ++i) starts[i] = i * 40;
  std::vector<float> out(kRows * 20);
  EXPECT_OK(backend.BidirectionalAttention({starts,
                                            {33, 20},
                                            {y.data(), 33},
                                            {y.data(), 33},
                                            {x.data(), 20},
                                            nullptr,
                                            {out.data(), 20}}));
  keep(out);
  const MemoryCase example = {{33, 17}, 999, 5, 3};
  MemoryData additive(example), delta(example);
  EXPECT_OK(backend.AdditiveMemory({additive.Args(example), additive.normalizer.data()}));
  EXPECT_OK(backend.DeltaMemory({delta.Args(example), delta.betas.data()}));
  keep(additive.content);
  keep(additive.normalizer);
  keep(additive.out);
  keep(delta.content);
  keep(delta.out);
  return all;
}

TEST(RowOpsOnCpuTest, GiveTheSameBitsWhateverTheThreads) {
  for (const cpu::KernelTable* kernels : cpu::SupportedKernels()) {
    const std::vector<float> expected = RunAll({.threads = 1, .isa = kernels->name});
    for (const int threads : {2, 3, 7}) {
      EXPECT_TRUE(RunAll({.threads = threads, .isa = kernels->name}) == expected)
          << kernels->name << ", " << threads << " threads";
    }
  }
}

TEST(RowOpsOnCpuTest, GiveTheSameBitsWithAvx2AndAvx512) {
  if (!cpu::FindKernels("avx512").ok()) GTEST_SKIP() << "no AVX-512";
  EXPECT_TRUE(RunAll({.threads = 1, .isa = "avx2"}) == RunAll({.threads = 1, .isa = "avx512"}));
}

// A row has the same bits wherever it stands among how many others.
TEST(RowOpsOnCpuTest, ARowDoesNotSeeTheOthers) {
  for (const cpu::KernelTable* kernels : cpu::SupportedKernels()) {
    auto backend = CreateBackend("cpu", {.threads = 1, .isa = kernels->name});
    ASSERT_OK(backend);
    const auto x = Numbers(20 * 12, 1), weights = Numbers(12 * 20, 2);
    std::vector<float> all(20 * 20), one(20);
    const DenseSizes sizes = {12, 20, Activation::kTanh, false};
    ASSERT_OK((*backend)->DenseLayer(
        {20, sizes, {x.data(), 12}, weights.data(), nullptr, {all.data(), 20}}));
    for (size_t row = 0; row < 20; ++row) {
      ASSERT_OK((*backend)->DenseLayer(
          {1, sizes, {x.data() + row * 12, 12}, weights.data(), nullptr, {one.data(), 20}}));
      EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin() + static_cast<long>(row) * 20));
    }
  }
}

}  // namespace
}  // namespace mnemosyne::kernels
