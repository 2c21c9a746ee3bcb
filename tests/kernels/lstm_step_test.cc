#include "kernels/lstm_step.h"

#include <cmath>
#include <limits>

#include "kernels/cpu/instruction_set.h"
#include "kernels/reference/lstm_reference.h"
#include "tests/kernels/backend_param.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::kernels {
namespace {

constexpr LstmSizes kAllSizes[] = {{2, 20, false}, {2, 20, true}, {1, 1, false},
                                   {3, 5, true},   {4, 64, true}, {1, 33, false}};

std::string Describe(const LstmSizes& sizes) {
  return fmt::format("{} layers of {}{}", sizes.layers, sizes.hidden,
                     sizes.normalized ? ", normalized" : "");
}

// Segments shorter than a tile, with and without a rest, longer than a block; between them gaps.
std::vector<Segment> ExampleSegments() {
  std::vector<Segment> segments;
  size_t offset = 5;
  for (const size_t count : std::initializer_list<size_t>{1, 15, 16, 17, 33, 129, 1000}) {
    segments.push_back({offset, count});
    offset += count + 7;
  }
  return segments;
}

// The memory of a step, on the host.
struct Memory {
  std::vector<float> weights, values, hidden, cell, mean, square;

  Memory(const LstmSizes& sizes, std::span<const Segment> segments) {
    const size_t size = segments.back().offset + segments.back().count + 3;
    weights = testing::NormalFloats(LstmWeightCount(sizes), 1);
    for (float& weight : weights) weight *= 0.3F;
    values = testing::NormalFloats(size, 2);
    // Sizes from 1e-8 to 1e4, so that both kinds of features come.
    for (size_t i = 0; i < size; ++i) {
      values[i] *= std::pow(10.0F, static_cast<float>(i % 13) - 8);
    }
    hidden = testing::NormalFloats(size * LstmStateCount(sizes), 3);
    for (float& number : hidden) number = std::tanh(number);
    cell = testing::NormalFloats(size * LstmStateCount(sizes), 4);
    mean = testing::NormalFloats(size, 5);
    square = testing::NormalFloats(size, 6);
    for (size_t i = 0; i < size; ++i) square[i] = square[i] * square[i] + mean[i] * mean[i];
  }

  bool operator==(const Memory&) const = default;
};

std::vector<LstmCoefficients> ExampleCoefficients(size_t count) {
  std::vector<LstmCoefficients> coefficients(count);
  for (size_t i = 0; i < count; ++i) {
    coefficients[i] = {i % 2 == 0 ? 1.0F : -0.3F, 2 + static_cast<float>(i), 0.01F};
  }
  return coefficients;
}

class LstmStepTest : public BackendTest {
 protected:
  // Takes a step on the backend; `memory` goes to the device and back.
  absl::Status Take(const LstmSizes& sizes, Memory& memory, bool replay = false) {
    const Buffer weights = Put(memory.weights), values = Put(memory.values);
    const Buffer hidden = Put(memory.hidden), cell = Put(memory.cell);
    const Buffer mean = Put(memory.mean), square = Put(memory.square);
    const absl::Status status = backend_->LstmStep(
        {segments_, coefficients_, sizes, weights.as<float>(), values.as<float>(),
         hidden.as<float>(), cell.as<float>(), sizes.normalized ? mean.as<float>() : nullptr,
         sizes.normalized ? square.as<float>() : nullptr, square_sums_, replay});
    memory.values = Get<float>(values);
    memory.hidden = Get<float>(hidden);
    memory.cell = Get<float>(cell);
    memory.mean = Get<float>(mean);
    memory.square = Get<float>(square);
    return status;
  }

  std::vector<Segment> segments_ = ExampleSegments();
  std::vector<LstmCoefficients> coefficients_ = ExampleCoefficients(segments_.size());
  std::vector<double> square_sums_ = std::vector<double>(segments_.size(), -1);
};

void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected,
                double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double scale = std::max(1.0, std::abs(static_cast<double>(expected[i])));
    ASSERT_NEAR(actual[i], expected[i], tolerance * scale) << "element " << i;
  }
}

TEST_P(LstmStepTest, MatchesReference) {
  for (const LstmSizes& sizes : kAllSizes) {
    SCOPED_TRACE(Describe(sizes));
    Memory actual(sizes, segments_), expected(sizes, segments_);
    std::vector<double> expected_sums(segments_.size());
    reference::LstmStep({segments_, coefficients_, sizes, expected.weights.data(),
                         expected.values.data(), expected.hidden.data(), expected.cell.data(),
                         expected.mean.data(), expected.square.data(), expected_sums});

    ASSERT_OK(Take(sizes, actual));

    ExpectNear(actual.hidden, expected.hidden, 3e-6);
    ExpectNear(actual.cell, expected.cell, 3e-6);
    ExpectNear(actual.mean, expected.mean, 1e-6);
    ExpectNear(actual.square, expected.square, 1e-6);
    ExpectNear(actual.values, expected.values, 1e-7);
    for (size_t i = 0; i < segments_.size(); ++i) {
      EXPECT_NEAR(square_sums_[i], expected_sums[i], 1e-4 * expected_sums[i] + 1e-12);
    }
  }
}

TEST_P(LstmStepTest, ReplaysTheSameBitsAndLeavesTheStateAlone) {
  for (const LstmSizes& sizes : kAllSizes) {
    SCOPED_TRACE(Describe(sizes));
    const Memory before(sizes, segments_);
    Memory stepped = before;
    ASSERT_OK(Take(sizes, stepped));
    const std::vector<double> sums = square_sums_;

    Memory replayed = stepped;
    replayed.values = before.values;
    ASSERT_OK(Take(sizes, replayed, /*replay=*/true));

    EXPECT_TRUE(replayed == stepped);
    EXPECT_EQ(square_sums_, sums);
  }
}

TEST_P(LstmStepTest, LeavesElementsOutsideTheSegmentsAlone) {
  const LstmSizes sizes = kAllSizes[1];
  const Memory before(sizes, segments_);
  Memory after = before;

  ASSERT_OK(Take(sizes, after));

  const size_t numbers = LstmStateCount(sizes);
  size_t end = 0;
  for (const Segment& segment : segments_) {
    for (size_t i = end; i < segment.offset; ++i) {
      ASSERT_EQ(after.values[i], before.values[i]) << i;
      ASSERT_EQ(after.mean[i], before.mean[i]) << i;
      ASSERT_EQ(after.square[i], before.square[i]) << i;
      for (size_t k = i * numbers; k < (i + 1) * numbers; ++k) {
        ASSERT_EQ(after.hidden[k], before.hidden[k]) << i;
        ASSERT_EQ(after.cell[k], before.cell[k]) << i;
      }
    }
    end = segment.offset + segment.count;
  }
}

// Each element has an LSTM of its own: how many there are beside it does not matter.
TEST_P(LstmStepTest, GivesAnElementTheSameBitsWhereverItIs) {
  const LstmSizes sizes = kAllSizes[1];
  segments_ = {{0, 100}};
  square_sums_.resize(1);
  coefficients_ = {{1, 1, 0.01F}};
  Memory memory(sizes, segments_);
  std::fill(memory.values.begin(), memory.values.end(), 0.25F);
  std::fill(memory.hidden.begin(), memory.hidden.end(), 0.0F);
  std::fill(memory.cell.begin(), memory.cell.end(), 0.0F);
  std::fill(memory.mean.begin(), memory.mean.end(), 0.0F);
  std::fill(memory.square.begin(), memory.square.end(), 0.0F);

  ASSERT_OK(Take(sizes, memory));

  EXPECT_NE(memory.values[0], 0);
  for (size_t i = 1; i < 100; ++i) ASSERT_EQ(memory.values[i], memory.values[0]) << i;
}

TEST_P(LstmStepTest, StaysFiniteWithAnyFiniteGradient) {
  const float extremes[] = {0,
                            -0.0F,
                            std::numeric_limits<float>::denorm_min(),
                            std::numeric_limits<float>::min(),
                            std::numeric_limits<float>::max(),
                            std::numeric_limits<float>::lowest(),
                            1e18F,
                            kLstmSmall};
  for (const LstmSizes& sizes : kAllSizes) {
    SCOPED_TRACE(Describe(sizes));
    Memory memory(sizes, segments_);
    for (size_t step = 0; step < 4; ++step) {
      for (size_t i = 0; i < memory.values.size(); ++i) {
        memory.values[i] = extremes[(i + step * 3) % std::size(extremes)];
      }
      ASSERT_OK(Take(sizes, memory));
      for (const auto* numbers :
           {&memory.values, &memory.hidden, &memory.cell, &memory.mean, &memory.square}) {
        for (const float number : *numbers) ASSERT_TRUE(std::isfinite(number));
      }
    }
  }
}

TEST_P(LstmStepTest, TakesAStepOfNothing) {
  EXPECT_OK(backend_->LstmStep(
      {{}, {}, {1, 1, true}, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, {}}));
}

TEST_P(LstmStepTest, RefusesArgumentsThatDoNotAgree) {
  const auto invalid = [](const char* text) {
    return testing::IsError(absl::StatusCode::kInvalidArgument, text);
  };
  float x[64] = {};
  std::vector<double> sums(1);
  const std::vector<Segment> segments = {{0, 1}};
  const std::vector<LstmCoefficients> coefficients(1);
  const auto take = [&](LstmStepArgs args) { return backend_->LstmStep(args); };
  const LstmStepArgs good = {segments, coefficients, {1, 1, true}, x, x, x, x, x, x, sums};
  for (const LstmSizes& sizes : {LstmSizes{0, 1, true}, LstmSizes{5, 1, true},
                                 LstmSizes{1, 0, true}, LstmSizes{1, 65, false}}) {
    LstmStepArgs args = good;
    args.sizes = sizes;
    EXPECT_THAT(take(args), invalid("expected 1 to 4 of 1 to 64"));
  }
  for (float* LstmStepArgs::*arena :
       {&LstmStepArgs::hidden, &LstmStepArgs::cell, &LstmStepArgs::mean, &LstmStepArgs::square}) {
    LstmStepArgs args = good;
    args.*arena = nullptr;
    EXPECT_THAT(take(args), invalid("missing arena"));
  }
  LstmStepArgs args = good;
  args.weights = nullptr;
  EXPECT_THAT(take(args), invalid("missing arena: weights"));
  args = good;
  args.coefficients = {};
  EXPECT_THAT(take(args), invalid("wrong size: coefficients has 0 elements, expected 1"));
}

INSTANTIATE_TEST_SUITE_P(Backends, LstmStepTest, kAllBackends, BackendParamName);

Memory TakeOnCpu(const LstmSizes& sizes, const CpuOptions& options) {
  const std::vector<Segment> segments = ExampleSegments();
  const std::vector<LstmCoefficients> coefficients = ExampleCoefficients(segments.size());
  std::vector<double> sums(segments.size());
  Memory memory(sizes, segments);
  auto backend = CreateBackend("cpu", options);
  EXPECT_OK(backend);
  EXPECT_OK((*backend)->LstmStep({segments, coefficients, sizes, memory.weights.data(),
                                  memory.values.data(), memory.hidden.data(), memory.cell.data(),
                                  memory.mean.data(), memory.square.data(), sums}));
  for (const double sum : sums) memory.values.push_back(static_cast<float>(sum));
  return memory;
}

TEST(LstmStepOnCpuTest, GivesTheSameBitsWhateverTheThreads) {
  for (const cpu::KernelTable* kernels : cpu::SupportedKernels()) {
    const Memory expected = TakeOnCpu(kAllSizes[1], {.threads = 1, .isa = kernels->name});
    for (const int threads : {2, 3, 7}) {
      EXPECT_TRUE(TakeOnCpu(kAllSizes[1], {.threads = threads, .isa = kernels->name}) == expected)
          << kernels->name << ", " << threads << " threads";
    }
  }
}

TEST(LstmStepOnCpuTest, GivesTheSameBitsWithAvx2AndAvx512) {
  if (!cpu::FindKernels("avx512").ok()) GTEST_SKIP() << "no AVX-512";
  for (const LstmSizes& sizes : kAllSizes) {
    EXPECT_TRUE(TakeOnCpu(sizes, {.threads = 1, .isa = "avx2"}) ==
                TakeOnCpu(sizes, {.threads = 1, .isa = "avx512"}))
        << Describe(sizes);
  }
}

}  // namespace
}  // namespace mnemosyne::kernels
