#include "kernels/coordinate_step.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/instruction_set.h"
#include "kernels/reference/coordinate_reference.h"
#include "tests/kernels/backend_param.h"
#include "tests/kernels/coordinate_example.h"

namespace mnemosyne::kernels {
namespace {

class CoordinateStepTest : public BackendTest {
 protected:
  void SetUp() override {
    BackendTest::SetUp();
    if (backend_ == nullptr) return;
    CoordinateExample nothing(kUsualCoordinateSizes);
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
  absl::Status Take(CoordinateExample& example, bool replay = false) {
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

TEST_P(CoordinateStepTest, MatchesReference) {
  for (const CoordinateSizes& sizes : kAllCoordinateSizes) {
    SCOPED_TRACE(Describe(sizes));
    CoordinateExample actual(sizes), expected(sizes);
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
  CoordinateExample actual(kUsualCoordinateSizes, /*large=*/true),
      expected(kUsualCoordinateSizes, /*large=*/true);
  reference::CoordinateStep(expected.Args());

  ASSERT_OK(Take(actual));

  ExpectNear(actual.log_step, expected.log_step, 5e-6);
  ExpectNear(actual.update, expected.update, 2e-6);
}

TEST_P(CoordinateStepTest, ReplaysTheSameBitsAndLeavesTheStateAlone) {
  for (const CoordinateSizes& sizes : kAllCoordinateSizes) {
    SCOPED_TRACE(Describe(sizes));
    CoordinateExample stepped(sizes);
    const std::vector<float> gradients = stepped.values;
    ASSERT_OK(Take(stepped));

    CoordinateExample replayed = stepped;
    replayed.values = gradients;
    ASSERT_OK(Take(replayed, /*replay=*/true));

    EXPECT_TRUE(replayed.Memory() == stepped.Memory());
    EXPECT_EQ(replayed.sums, stepped.sums);
  }
}

TEST_P(CoordinateStepTest, LeavesElementsOutsideTheSegmentsAlone) {
  const CoordinateExample before(kUsualCoordinateSizes);
  CoordinateExample after(kUsualCoordinateSizes);

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
  CoordinateExample example(kUsualCoordinateSizes);
  example.segments = {{0, 100}};
  example.tensors.resize(1);
  example.tensors[0].rank = 1;
  example.tensors[0].shape[0] = 100;
  example.told.resize(kUsualCoordinateSizes.hidden);
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
  for (const CoordinateSizes& sizes : kAllCoordinateSizes) {
    SCOPED_TRACE(Describe(sizes));
    CoordinateExample example(sizes);
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
  CoordinateExample example(kUsualCoordinateSizes);
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
    CoordinateExample example(kUsualCoordinateSizes);
    CoordinateStepArgs args = example.Args();
    change(example, args);
    EXPECT_THAT(backend_->CoordinateStep(args),
                testing::IsError(absl::StatusCode::kInvalidArgument, text));
  };
  using Args = CoordinateStepArgs;
  expect_refusal([](CoordinateExample& e, Args&) { e.model.sizes.hidden = 65; }, "hidden is 65");
  expect_refusal([](CoordinateExample& e, Args&) { e.model.sizes.heads = 9; }, "heads is 9");
  expect_refusal([](CoordinateExample& e, Args&) { e.model.sizes.key_width = 0; },
                 "key_width is 0");
  expect_refusal([](CoordinateExample& e, Args&) { e.model.sizes.key_width = 5; }, "has 4 inputs");
  expect_refusal([](CoordinateExample& e, Args&) { e.tensors[6].shape[1] = 8; }, "wrong shape");
  expect_refusal([](CoordinateExample& e, Args&) { e.tensors[6].shape[1] = 0; }, "wrong shape");
  expect_refusal([](CoordinateExample& e, Args&) { e.tensors[6].rank = 9; }, "wrong rank");
  expect_refusal([](CoordinateExample&, Args& a) { a.told = a.told.first(3); },
                 "told has 3 elements");
  expect_refusal([](CoordinateExample&, Args& a) { a.tensors = {}; }, "tensors has 0 elements");
  expect_refusal([](CoordinateExample&, Args& a) { a.weights = nullptr; },
                 "missing arena: weights");
  for (float* Args::*arena : {&Args::values, &Args::fast, &Args::slow, &Args::square,
                              &Args::log_step, &Args::update, &Args::content, &Args::mass}) {
    expect_refusal([&](CoordinateExample&, Args& a) { a.*arena = nullptr; }, "missing arena");
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, CoordinateStepTest, kAllBackends, BackendParamName);

CoordinateExample TakeOnCpu(const CoordinateSizes& sizes, bool large, const CpuOptions& options) {
  CoordinateExample example(sizes, large);
  auto backend = CreateBackend("cpu", options);
  EXPECT_OK(backend);
  EXPECT_OK((*backend)->CoordinateStep(example.Args()));
  return example;
}

bool HaveSameBits(const CoordinateExample& a, const CoordinateExample& b) {
  return a.Memory() == b.Memory() && a.sums == b.sums;
}

TEST(CoordinateStepOnCpuTest, GivesTheSameBitsWhateverTheThreads) {
  for (const cpu::KernelTable* kernels : cpu::SupportedKernels()) {
    const CoordinateExample expected =
        TakeOnCpu(kUsualCoordinateSizes, true, {.threads = 1, .isa = kernels->name});
    for (const int threads : {2, 3, 7}) {
      EXPECT_TRUE(HaveSameBits(
          TakeOnCpu(kUsualCoordinateSizes, true, {.threads = threads, .isa = kernels->name}),
          expected))
          << kernels->name << ", " << threads << " threads";
    }
  }
}

TEST(CoordinateStepOnCpuTest, GivesTheSameBitsWithAvx2AndAvx512) {
  if (!cpu::FindKernels("avx512").ok()) GTEST_SKIP() << "no AVX-512";
  for (const CoordinateSizes& sizes : kAllCoordinateSizes) {
    EXPECT_TRUE(HaveSameBits(TakeOnCpu(sizes, false, {.threads = 1, .isa = "avx2"}),
                             TakeOnCpu(sizes, false, {.threads = 1, .isa = "avx512"})))
        << Describe(sizes);
  }
}

}  // namespace
}  // namespace mnemosyne::kernels
