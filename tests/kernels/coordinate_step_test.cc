#include "kernels/coordinate_step.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/instruction_set.h"
#include "kernels/reference/coordinate_reference.h"
#include "tests/kernels/backend_param.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::kernels {
namespace {

CoordinateSizes MakeSizes(size_t key, size_t value, size_t heads, size_t hidden,
                          FeatureMapShape shape, size_t features, bool bias = false) {
  return {.key_width = key,
          .value_width = value,
          .heads = heads,
          .map = {shape, key, features, 0.5F, 0.01F},
          .map_bias = bias,
          .hidden = hidden};
}

const CoordinateSizes kUsual = MakeSizes(4, 4, 2, 24, FeatureMapShape::kExponential, 4);
const CoordinateSizes kAllSizes[] = {
    kUsual,
    MakeSizes(3, 5, 1, 7, FeatureMapShape::kExponential, 6, true),
    MakeSizes(1, 1, 1, 1, FeatureMapShape::kRelu, 1),
    MakeSizes(32, 32, 8, 64, FeatureMapShape::kRelu, 32),
    MakeSizes(2, 3, 3, 17, FeatureMapShape::kHyperbolic, 6),
    MakeSizes(5, 2, 2, 9, FeatureMapShape::kElu, 5),
    MakeSizes(2, 4, 2, 24, FeatureMapShape::kDpfp, 12),
};

std::string Describe(const CoordinateSizes& sizes) {
  return fmt::format("map {}, {} heads, {} hidden", static_cast<int>(sizes.map.shape), sizes.heads,
                     sizes.hidden);
}

// A step with all that it needs, on the host.
struct Example {
  CoordinateModel model;
  std::vector<Segment> segments;
  std::vector<CoordinateTensor> tensors;
  std::vector<float> told, weights;
  std::vector<float> values, fast, slow, square, log_step, update, content, mass;
  std::vector<double> sums;

  // Tensors shorter than a tile, with and without a rest, with axes of length 1, and longer than a
  // block; between them gaps.
  explicit Example(const CoordinateSizes& sizes, bool large = false) {
    model.sizes = sizes;
    model.knobs = {.gate_cam = 0.9F,
                   .correction = 0.8F,
                   .eta_rise = 0.05F,
                   .eta_smoothing = 0.2F,
                   .eta_low = -8,
                   .eta_high = 2,
                   .eta_temper = 0.7F,
                   .epsilon = 1e-5F};
    for (size_t head = 0; head < sizes.heads; ++head) {
      model.discounts[head] = 1 - 0.3F / static_cast<float>(1 + head);
    }
    size_t offset = 5;
    std::vector<std::vector<size_t>> shapes = {
        {}, {1}, {15}, {16}, {33}, {1, 1}, {17, 9}, {1, 40}, {40, 1}, {3, 4, 5}, {3, 1, 2, 7, 2}};
    if (large) shapes.insert(shapes.end(), {{40000}, {300, 130}, {4, 40, 30, 20}});
    for (const std::vector<size_t>& shape : shapes) {
      CoordinateTensor tensor;
      size_t count = 1;
      for (const size_t length : shape) {
        tensor.shape[tensor.rank++] = length;
        count *= length;
      }
      const auto k = static_cast<float>(segments.size());
      tensor.gradient_scale = segments.size() % 2 == 0 ? 1.0F : -0.3F;
      tensor.mass_fast = 1 + 0.5F * k;
      tensor.mass_slow = 2 + k;
      tensor.mass_square = 2 + 3 * k;
      tensor.prior_step = 0.01F;
      tensors.push_back(tensor);
      segments.push_back({offset, count});
      offset += count + 7;
    }
    sums.assign(segments.size(), -1);
    told = testing::NormalFloats(segments.size() * sizes.hidden, 1);
    weights = testing::NormalFloats(CoordinateWeightCount(sizes), 2);
    const float scale = 1 / std::sqrt(static_cast<float>(CoordinateInputCount(sizes)));
    for (float& weight : weights) weight *= scale;
    values = testing::NormalFloats(offset, 3);
    // Sizes from 1e-6 to 1.
    for (size_t i = 0; i < offset; ++i) values[i] *= std::pow(10.0F, -static_cast<float>(i % 7));
    fast = testing::NormalFloats(offset, 4);
    slow = testing::NormalFloats(offset, 5);
    square = testing::NormalFloats(offset, 6);
    for (size_t i = 0; i < offset; ++i) square[i] = square[i] * square[i] + fast[i] * fast[i];
    log_step = testing::NormalFloats(offset, 7);
    update = testing::NormalFloats(offset, 8);
    content = testing::NormalFloats(offset * CoordinateContentCount(sizes), 9);
    mass = testing::NormalFloats(offset * CoordinateMassCount(sizes), 10);
    for (float& number : mass) number = std::abs(number) + 0.1F;
  }

  CoordinateStepArgs Args(bool replay = false) {
    return {segments,      tensors,        told,        model,         weights.data(),
            values.data(), fast.data(),    slow.data(), square.data(), log_step.data(),
            update.data(), content.data(), mass.data(), sums,          replay};
  }

  // What a step may change.
  std::vector<std::vector<float>> Memory() const {
    return {values, fast, slow, square, log_step, update, content, mass};
  }
};

class CoordinateStepTest : public BackendTest {
 protected:
  void SetUp() override {
    BackendTest::SetUp();
    if (backend_ == nullptr) return;
    Example nothing(kUsual);
    CoordinateStepArgs args = nothing.Args();
    args.segments = {};
    args.tensors = {};
    args.told = {};
    args.square_sums = {};
    const absl::Status status = backend_->CoordinateStep(args);
    if (absl::IsUnimplemented(status)) GTEST_SKIP() << status;
    ASSERT_OK(status);
  }

  // Takes a step on the backend; what `example` holds goes to the device and back.
  absl::Status Take(Example& example, bool replay = false) {
    const Buffer weights = Put(example.weights);
    CoordinateStepArgs args = example.Args(replay);
    args.weights = weights.as<float>();
    const std::pair<float**, std::vector<float>*> arenas[] = {
        {&args.values, &example.values},     {&args.fast, &example.fast},
        {&args.slow, &example.slow},         {&args.square, &example.square},
        {&args.log_step, &example.log_step}, {&args.update, &example.update},
        {&args.content, &example.content},   {&args.mass, &example.mass}};
    std::vector<Buffer> buffers;
    for (const auto& [pointer, host] : arenas) {
      buffers.push_back(Put(*host));
      *pointer = buffers.back().as<float>();
    }
    const absl::Status status = backend_->CoordinateStep(args);
    for (size_t i = 0; i < buffers.size(); ++i) *arenas[i].second = Get<float>(buffers[i]);
    return status;
  }
};

void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected,
                double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double scale = std::max(1.0, std::abs(static_cast<double>(expected[i])));
    ASSERT_NEAR(actual[i], expected[i], tolerance * scale) << "element " << i;
  }
}

TEST_P(CoordinateStepTest, MatchesReference) {
  for (const CoordinateSizes& sizes : kAllSizes) {
    SCOPED_TRACE(Describe(sizes));
    Example actual(sizes), expected(sizes);
    reference::CoordinateStep(expected.Args());

    ASSERT_OK(Take(actual));

    ExpectNear(actual.fast, expected.fast, 1e-6);
    ExpectNear(actual.slow, expected.slow, 1e-6);
    ExpectNear(actual.square, expected.square, 1e-6);
    ExpectNear(actual.content, expected.content, 5e-6);
    ExpectNear(actual.mass, expected.mass, 5e-6);
    ExpectNear(actual.log_step, expected.log_step, 5e-6);
    ExpectNear(actual.update, expected.update, 2e-6);
    ExpectNear(actual.values, expected.values, 2e-6);
    for (size_t k = 0; k < actual.sums.size(); ++k) {
      EXPECT_NEAR(actual.sums[k], expected.sums[k], 1e-4 * expected.sums[k] + 1e-12);
    }
  }
}

TEST_P(CoordinateStepTest, MatchesReferenceOverManyBlocks) {
  Example actual(kUsual, /*large=*/true), expected(kUsual, /*large=*/true);
  reference::CoordinateStep(expected.Args());

  ASSERT_OK(Take(actual));

  ExpectNear(actual.log_step, expected.log_step, 5e-6);
  ExpectNear(actual.update, expected.update, 2e-6);
}

TEST_P(CoordinateStepTest, ReplaysTheSameBitsAndLeavesTheStateAlone) {
  for (const CoordinateSizes& sizes : kAllSizes) {
    SCOPED_TRACE(Describe(sizes));
    Example stepped(sizes);
    const std::vector<float> gradients = stepped.values;
    ASSERT_OK(Take(stepped));

    Example replayed = stepped;
    replayed.values = gradients;
    ASSERT_OK(Take(replayed, /*replay=*/true));

    EXPECT_TRUE(replayed.Memory() == stepped.Memory());
    EXPECT_EQ(replayed.sums, stepped.sums);
  }
}

TEST_P(CoordinateStepTest, LeavesElementsOutsideTheSegmentsAlone) {
  const Example before(kUsual);
  Example after(kUsual);

  ASSERT_OK(Take(after));

  const auto old = before.Memory(), now = after.Memory();
  for (size_t arena = 0; arena < old.size(); ++arena) {
    const size_t numbers = old[arena].size() / before.values.size();
    size_t end = 0;
    for (const Segment& segment : before.segments) {
      for (size_t i = end * numbers; i < segment.offset * numbers; ++i) {
        ASSERT_EQ(now[arena][i], old[arena][i]) << "arena " << arena << ", number " << i;
      }
      end = segment.offset + segment.count;
    }
  }
}

// Coordinates that know the same of their tensor decide the same, wherever they are.
TEST_P(CoordinateStepTest, GivesACoordinateTheSameBitsWhereverItIs) {
  Example example(kUsual);
  example.segments = {{0, 100}};
  example.tensors.resize(1);
  example.tensors[0].rank = 1;
  example.tensors[0].shape[0] = 100;
  example.told.resize(kUsual.hidden);
  example.sums.resize(1);
  std::ranges::fill(example.values, 0.25F);
  for (auto* arena : {&example.fast, &example.slow, &example.square, &example.log_step,
                      &example.content, &example.mass}) {
    std::ranges::fill(*arena, 0.0F);
  }

  ASSERT_OK(Take(example));

  EXPECT_NE(example.values[0], 0);
  for (size_t i = 1; i < 100; ++i) ASSERT_EQ(example.values[i], example.values[0]) << i;
}

TEST_P(CoordinateStepTest, StaysFiniteWithAnyFiniteGradient) {
  const float extremes[] = {0,
                            -0.0F,
                            std::numeric_limits<float>::denorm_min(),
                            std::numeric_limits<float>::min(),
                            std::numeric_limits<float>::max(),
                            std::numeric_limits<float>::lowest(),
                            1e18F,
                            1e-20F};
  for (const CoordinateSizes& sizes : kAllSizes) {
    SCOPED_TRACE(Describe(sizes));
    Example example(sizes);
    for (size_t step = 0; step < 4; ++step) {
      for (size_t i = 0; i < example.values.size(); ++i) {
        example.values[i] = extremes[(i + step * 3) % std::size(extremes)];
      }
      ASSERT_OK(Take(example));
      for (const auto& numbers : example.Memory()) {
        for (const float number : numbers) ASSERT_TRUE(std::isfinite(number));
      }
    }
  }
}

TEST_P(CoordinateStepTest, DoesNotMoveWithoutAnyGradient) {
  Example example(kUsual);
  for (auto* arena : {&example.values, &example.fast, &example.slow, &example.square}) {
    std::ranges::fill(*arena, 0.0F);
  }

  ASSERT_OK(Take(example));

  for (const Segment& segment : example.segments) {
    for (size_t i = 0; i < segment.count; ++i) ASSERT_EQ(example.values[segment.offset + i], 0);
  }
}

TEST_P(CoordinateStepTest, RefusesArgumentsThatDoNotAgree) {
  const auto expect_refusal = [&](const auto& change, const char* text) {
    Example example(kUsual);
    CoordinateStepArgs args = example.Args();
    change(example, args);
    EXPECT_THAT(backend_->CoordinateStep(args),
                testing::IsError(absl::StatusCode::kInvalidArgument, text));
  };
  using Args = CoordinateStepArgs;
  expect_refusal([](Example& e, Args&) { e.model.sizes.hidden = 65; }, "hidden is 65");
  expect_refusal([](Example& e, Args&) { e.model.sizes.heads = 9; }, "heads is 9");
  expect_refusal([](Example& e, Args&) { e.model.sizes.key_width = 0; }, "key_width is 0");
  expect_refusal([](Example& e, Args&) { e.model.sizes.key_width = 5; }, "has 4 inputs");
  expect_refusal([](Example& e, Args&) { e.tensors[6].shape[1] = 8; }, "wrong shape");
  expect_refusal([](Example& e, Args&) { e.tensors[6].shape[1] = 0; }, "wrong shape");
  expect_refusal([](Example& e, Args&) { e.tensors[6].rank = 9; }, "wrong rank");
  expect_refusal([](Example&, Args& a) { a.told = a.told.first(3); }, "told has 3 elements");
  expect_refusal([](Example&, Args& a) { a.tensors = {}; }, "tensors has 0 elements");
  expect_refusal([](Example&, Args& a) { a.weights = nullptr; }, "missing arena: weights");
  for (float* Args::*arena : {&Args::values, &Args::fast, &Args::slow, &Args::square,
                              &Args::log_step, &Args::update, &Args::content, &Args::mass}) {
    expect_refusal([&](Example&, Args& a) { a.*arena = nullptr; }, "missing arena");
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, CoordinateStepTest, kAllBackends, BackendParamName);

Example TakeOnCpu(const CoordinateSizes& sizes, bool large, const CpuOptions& options) {
  Example example(sizes, large);
  auto backend = CreateBackend("cpu", options);
  EXPECT_OK(backend);
  EXPECT_OK((*backend)->CoordinateStep(example.Args()));
  return example;
}

bool HaveSameBits(const Example& a, const Example& b) {
  return a.Memory() == b.Memory() && a.sums == b.sums;
}

TEST(CoordinateStepOnCpuTest, GivesTheSameBitsWhateverTheThreads) {
  for (const cpu::KernelTable* kernels : cpu::SupportedKernels()) {
    const Example expected = TakeOnCpu(kUsual, true, {.threads = 1, .isa = kernels->name});
    for (const int threads : {2, 3, 7}) {
      EXPECT_TRUE(HaveSameBits(TakeOnCpu(kUsual, true, {.threads = threads, .isa = kernels->name}),
                               expected))
          << kernels->name << ", " << threads << " threads";
    }
  }
}

TEST(CoordinateStepOnCpuTest, GivesTheSameBitsWithAvx2AndAvx512) {
  if (!cpu::FindKernels("avx512").ok()) GTEST_SKIP() << "no AVX-512";
  for (const CoordinateSizes& sizes : kAllSizes) {
    EXPECT_TRUE(HaveSameBits(TakeOnCpu(sizes, false, {.threads = 1, .isa = "avx2"}),
                             TakeOnCpu(sizes, false, {.threads = 1, .isa = "avx512"})))
        << Describe(sizes);
  }
}

}  // namespace
}  // namespace mnemosyne::kernels
