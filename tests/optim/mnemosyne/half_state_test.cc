// The flagship with a state of 16 bits a number.
#include "kernels/half_state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "tests/optim/learned_run.h"
#include "tests/testing/model_files.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::optim {
namespace {

using Tensors = std::vector<std::vector<float>>;
using testing::NormalFloats;

std::vector<ParameterSpec> SomeParameters() {
  std::vector<ParameterSpec> parameters(3);
  parameters[0].name = "matrix";
  parameters[0].shape = {70, 43};
  parameters[1].name = "bias";
  parameters[1].shape = {37};
  parameters[2].name = "scalar";
  return parameters;
}

Tensors Gradients(uint32_t step, float factor = 1) {
  Tensors gradients = {NormalFloats(70 * 43, 3 * step), NormalFloats(37, 3 * step + 1),
                       NormalFloats(1, 3 * step + 2)};
  for (auto& gradient : gradients) {
    for (float& g : gradient) g *= factor;
  }
  return gradients;
}

class HalfStateTest : public ::testing::TestWithParam<const char*> {
 protected:
  LearnedRun NewRun(const kernels::CpuOptions& options = {.threads = 2},
                    StatePrecision precision = StatePrecision::kHalf) {
    return {testing::MnemosyneModel(GetParam()), SomeParameters(), options, {}, precision};
  }
};

TEST_P(HalfStateTest, GivesTheSameBitsWhateverTheNumberOfThreads) {
  LearnedRun one = NewRun({.threads = 1}), five = NewRun({.threads = 5});
  for (uint32_t step = 0; step < 4; ++step) {
    EXPECT_TRUE(one.Step(Gradients(step)) == five.Step(Gradients(step))) << "step " << step;
    EXPECT_TRUE(one.State() == five.State()) << "step " << step;
  }
}

TEST_P(HalfStateTest, ReplaysFromTheStateAfterTheStep) {
  LearnedRun run = NewRun();
  for (uint32_t step = 0; step < 4; ++step) {
    const Tensors updates = run.Step(Gradients(step));
    const std::string state = run.State();

    EXPECT_TRUE(run.Replay(Gradients(step)) == updates) << "step " << step;
    EXPECT_TRUE(run.State() == state) << "step " << step;
  }
}

TEST_P(HalfStateTest, DoesNotSeeAPowerOfTwoOnAllGradients) {
  for (const int power : {-40, -17, 1, 40}) {
    LearnedRun plain = NewRun(), scaled = NewRun();
    for (uint32_t step = 0; step < 5; ++step) {
      const Tensors expected = plain.Step(Gradients(step));

      EXPECT_TRUE(scaled.Step(Gradients(step, std::exp2f(static_cast<float>(power)))) == expected)
          << "power " << power << ", step " << step;
    }
  }
}

TEST_P(HalfStateTest, GoesOnFromASavedStateWithTheSameBits) {
  LearnedRun run = NewRun(), loaded = NewRun();
  for (uint32_t step = 0; step < 5; ++step) run.Step(Gradients(step));
  loaded.SetState(run.State(), 5);
  for (uint32_t step = 5; step < 8; ++step) {
    EXPECT_TRUE(loaded.Step(Gradients(step)) == run.Step(Gradients(step))) << "step " << step;
  }
  EXPECT_TRUE(loaded.State() == run.State());
}

TEST_P(HalfStateTest, StaysNearTheFullState) {
  LearnedRun half = NewRun(), full = NewRun({.threads = 2}, StatePrecision::kFull);
  double difference = 0, size = 0;
  for (uint32_t step = 0; step < 60; ++step) {
    const Tensors a = half.Step(Gradients(step)), b = full.Step(Gradients(step));
    for (size_t i = 0; i < a[0].size(); ++i) {
      difference += std::pow(static_cast<double>(a[0][i] - b[0][i]), 2);
      size += std::pow(static_cast<double>(b[0][i]), 2);
    }
  }
  EXPECT_LE(std::sqrt(difference / size), 0.05);
  EXPECT_GT(difference, 0);
}

TEST_P(HalfStateTest, StaysFiniteWithExtremeGradients) {
  for (const float value : {0.0F, std::numeric_limits<float>::denorm_min(), 1e-30F, 1e19F,
                            -std::numeric_limits<float>::max()}) {
    LearnedRun run = NewRun();
    for (uint32_t step = 0; step < 10; ++step) {
      Tensors gradients = Gradients(step);
      for (auto& gradient : gradients) {
        for (size_t i = 0; i < gradient.size(); ++i) {
          if (step < 5 || i % 7 == 0) gradient[i] = value;
        }
      }
      for (const auto& update : run.Step(gradients)) {
        for (const float u : update) ASSERT_TRUE(std::isfinite(u)) << value << ", step " << step;
      }
    }
  }
}

TEST_P(HalfStateTest, HasHalfTheBytes) {
  std::vector<ParameterSpec> parameters(1);
  parameters[0].name = "p";
  parameters[0].shape = {1024, 64};
  const auto bytes = [&](StatePrecision precision) {
    LearnedRun run(testing::MnemosyneModel(GetParam()), parameters, {.threads = 1}, {}, precision);
    size_t all = 0;
    for (const StateTensor& tensor : run.state().Tensors()) {
      if (tensor.shape == parameters[0].shape) all += tensor.byte_count;
    }
    return all;
  };
  EXPECT_EQ(bytes(StatePrecision::kFull), 12U * 1024 * 64);
  EXPECT_EQ(bytes(StatePrecision::kHalf), 6U * 1024 * 64);
}

INSTANTIATE_TEST_SUITE_P(Weights, HalfStateTest, ::testing::Values("0.4.0", "0.0.1"),
                         [](const auto& param) {
                           return std::string(param.param) == "0.4.0" ? "shipped" : "random";
                         });

// Rounding has no side: the mean over many positions is the number itself.
TEST(HalfStateRoundingTest, IsRightOnAverage) {
  constexpr uint32_t kCount = 100'000;
  for (const float x : {1.001F, -3.7e-5F, 0.3337F}) {
    double brain = 0, paired = 0, half = 0;
    for (uint32_t i = 0; i < kCount; ++i) {
      const uint32_t random = kernels::RandomBits(17, i);
      brain += static_cast<double>(kernels::RoundToBrain(x, random));
      paired += static_cast<double>(kernels::RoundToBrain(x, kernels::RandomHalf(17, i)));
      half += static_cast<double>(kernels::UnpackHalf(kernels::PackHalf(std::abs(x), random)));
    }
    // Four standard deviations of a step of 2^-7 or 2^-10 at most.
    const double size = std::abs(static_cast<double>(x)), root = std::sqrt(kCount);
    EXPECT_NEAR(brain / kCount, static_cast<double>(x), 4 * size * 0x1p-8 / root);
    EXPECT_NEAR(paired / kCount, static_cast<double>(x), 4 * size * 0x1p-8 / root);
    // Below 2^-14 a step of float16 no longer shrinks with the number.
    EXPECT_NEAR(half / kCount, size, 4 * std::max(size * 0x1p-11, 0x1p-25) / root);
  }
}

// What one number is rounded by says nothing of the next ones', though four share a mix.
TEST(HalfStateRoundingTest, NeighboursAreRoundedIndependently) {
  constexpr uint32_t kCount = 100'000;
  using Draw = uint32_t (*)(uint32_t key, uint32_t position);
  const std::pair<const char*, Draw> draws[] = {
      {"lowest 16", [](uint32_t key, uint32_t i) { return kernels::RandomBits(key, i) & 0xFFFFU; }},
      {"highest 13",
       [](uint32_t key, uint32_t i) { return (kernels::RandomBits(key, i) >> 19) << 3; }},
      {"halves", [](uint32_t key, uint32_t i) { return kernels::RandomHalf(key, i) & 0xFFFFU; }},
  };
  for (const auto& [name, draw] : draws) {
    for (uint32_t distance = 1; distance < 6; ++distance) {
      double product = 0;
      for (uint32_t i = 0; i < kCount; ++i) {
        const auto centered = [&, draw = draw](uint32_t at) {
          return static_cast<double>(draw(17, at)) / 65536.0 - 0.5;
        };
        product += 12 * centered(i) * centered(i + distance);
      }
      EXPECT_LT(std::abs(product / kCount), 4 / std::sqrt(kCount)) << name << ", " << distance;
    }
  }
}

TEST(HalfStateRoundingTest, LeavesNumbersOfSixteenBitsAlone) {
  for (uint32_t bits = 0; bits < 0x7800; ++bits) {  // Below 2^15.
    const auto half = static_cast<uint16_t>(bits);
    ASSERT_EQ(kernels::PackHalf(kernels::UnpackHalf(half), kernels::RandomBits(1, bits)), half);
    const float brain = kernels::UnpackBrain(half);
    ASSERT_EQ(kernels::RoundToBrain(brain, kernels::RandomBits(2, bits)), brain);
  }
}

}  // namespace
}  // namespace mnemosyne::optim
