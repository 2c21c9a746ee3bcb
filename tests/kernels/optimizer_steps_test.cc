#include "kernels/optimizer_steps.h"

#include <cmath>
#include <limits>

#include "tests/kernels/backend_param.h"
#include "tests/kernels/step_example.h"

namespace mnemosyne::kernels {
namespace {

using ::testing::DoubleNear;
using ::testing::Each;

class OptimizerStepsTest : public BackendTest {
 protected:
  // Takes a step on the backend; `memory` goes to the device and back.
  absl::Status Take(Rule rule, std::span<const Segment> segments, StepMemory& memory,
                    std::span<double> square_sums, bool replay = false) {
    const Buffer values = Put(memory.values), first = Put(memory.first);
    const Buffer second = Put(memory.second), signs = Put(memory.signs);
    const absl::Status status =
        TakeStep(*backend_, rule, segments,
                 {values.as<float>(), first.as<float>(), second.as<float>(), signs.as<uint32_t>()},
                 square_sums, replay);
    memory.values = Get<float>(values);
    memory.first = Get<float>(first);
    memory.second = Get<float>(second);
    memory.signs = Get<uint32_t>(signs);
    return status;
  }

  const std::vector<Segment> segments_ = ExampleSegments();
  std::vector<double> square_sums_ = std::vector<double>(segments_.size(), -1);
};

// Of float32 numbers that came from a handful of roundings.
void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double tolerance = 1e-6 * std::max(1.0, std::abs(static_cast<double>(expected[i])));
    ASSERT_NEAR(actual[i], expected[i], tolerance) << "element " << i;
  }
}

TEST_P(OptimizerStepsTest, MatchesReference) {
  for (const Rule rule : kAllRules) {
    SCOPED_TRACE(rule);
    StepMemory actual(segments_), expected(segments_);
    std::vector<double> expected_sums(segments_.size());
    ReferenceBackend reference;
    ASSERT_OK(TakeStep(reference, rule, segments_, PointersTo(expected), expected_sums));

    ASSERT_OK(Take(rule, segments_, actual, square_sums_));

    ExpectNear(actual.values, expected.values);
    ExpectNear(actual.first, expected.first);
    ExpectNear(actual.second, expected.second);
    for (size_t i = 0; i < segments_.size(); ++i) {
      EXPECT_NEAR(square_sums_[i], expected_sums[i], 1e-5 * expected_sums[i]);
    }
  }
}

TEST_P(OptimizerStepsTest, SumsTheSquaresOfItsUpdatesInFloat64) {
  for (const Rule rule : kAllRules) {
    SCOPED_TRACE(rule);
    StepMemory memory(segments_);

    ASSERT_OK(Take(rule, segments_, memory, square_sums_));

    for (size_t i = 0; i < segments_.size(); ++i) {
      double expected = 0;
      for (size_t k = 0; k < segments_[i].count; ++k) {
        expected += std::pow(static_cast<double>(memory.values[segments_[i].offset + k]), 2);
      }
      EXPECT_NEAR(square_sums_[i], expected, 1e-12 * expected);
    }
  }
}

TEST_P(OptimizerStepsTest, LeavesElementsOutsideTheSegmentsAlone) {
  for (const Rule rule : kAllRules) {
    SCOPED_TRACE(rule);
    const StepMemory before(segments_);
    StepMemory after = before;

    ASSERT_OK(Take(rule, segments_, after, square_sums_));

    size_t end = 0;
    for (const Segment& segment : segments_) {
      for (size_t i = end; i < segment.offset; ++i) {
        ASSERT_EQ(after.values[i], before.values[i]) << i;
        ASSERT_EQ(after.first[i], before.first[i]) << i;
        ASSERT_EQ(after.second[i], before.second[i]) << i;
      }
      end = segment.offset + segment.count;
    }
  }
}

TEST_P(OptimizerStepsTest, ReplaysTheSameBitsAndLeavesTheStateAlone) {
  for (const Rule rule : kAllRules) {
    SCOPED_TRACE(rule);
    const StepMemory before(segments_);
    StepMemory stepped = before;
    ASSERT_OK(Take(rule, segments_, stepped, square_sums_));

    StepMemory replayed = stepped;
    replayed.values = before.values;
    std::vector<double> replayed_sums(segments_.size());
    ASSERT_OK(Take(rule, segments_, replayed, replayed_sums, /*replay=*/true));

    EXPECT_TRUE(replayed == stepped);
    EXPECT_EQ(replayed_sums, square_sums_);
  }
}

// What PyTorch computes in a fused multiply-add, and what it rounds on the way.
TEST_P(OptimizerStepsTest, RoundsAsPyTorch) {
  const bool fused = GetParam().isa != "baseline";
  const auto fma = [&](float a, float b, float c) { return fused ? std::fma(a, b, c) : a * b + c; };
  const std::vector<Segment> segments = {{0, 10007}};
  const StepMemory before(segments);
  const AdamCoefficients a = ExampleAdamCoefficients(0);
  const SgdCoefficients s = ExampleSgdCoefficients(Rule::kNesterov, 0);

  StepMemory adam = before, sgd = before;
  ASSERT_OK(Take(Rule::kAdam, segments, adam, std::span(square_sums_).first(1)));
  ASSERT_OK(Take(Rule::kNesterov, segments, sgd, std::span(square_sums_).first(1)));

  for (size_t i = 0; i < segments[0].count; ++i) {
    const float g = before.values[i];
    const float m = fma(g, a.one_minus_beta1, a.beta1 * before.first[i]);
    const float v = fma(a.one_minus_beta2 * g, g, a.beta2 * before.second[i]);
    ASSERT_EQ(adam.first[i], m) << i;
    ASSERT_EQ(adam.second[i], v) << i;
    ASSERT_EQ(adam.values[i],
              (a.negative_step_size * m) / (std::sqrt(v) / a.bias_correction2_sqrt + a.epsilon))
        << i;
    const float b = fma(g, s.gradient_weight, s.momentum * before.first[i]);
    ASSERT_EQ(sgd.first[i], b) << i;
    ASSERT_EQ(sgd.values[i], fma(b, s.momentum, g)) << i;
  }
}

TEST_P(OptimizerStepsTest, LionMovesByOneOrNotAtAll) {
  StepMemory memory(segments_);

  ASSERT_OK(Take(Rule::kLion, segments_, memory, square_sums_));

  for (size_t i = 0; i < segments_.size(); ++i) {
    EXPECT_EQ(memory.values[segments_[i].offset], 0);
    EXPECT_EQ(square_sums_[i], static_cast<double>(segments_[i].count - 1));
  }
}

TEST_P(OptimizerStepsTest, TakesAStepOfNothing) {
  for (const Rule rule : kAllRules) {
    EXPECT_OK(TakeStep(*backend_, rule, {}, {nullptr, nullptr, nullptr, nullptr}, {})) << rule;
  }
}

// How many share a call changes nothing for any of them, whatever their segments.
TEST_P(OptimizerStepsTest, StepsOfSeveralStatesHaveTheBitsOfEachAlone) {
  const std::vector<std::vector<Segment>> segments = {
      segments_, {{0, 1}}, {{32, 4097}, {16384, 20000}}, segments_};
  for (const bool replay : {false, true}) {
    std::vector<StepMemory> alone, shared;
    std::vector<std::vector<double>> alone_sums, shared_sums;
    std::vector<std::vector<AdamCoefficients>> coefficients;
    for (size_t k = 0; k < segments.size(); ++k) {
      alone.emplace_back(segments[k], static_cast<uint32_t>(10 * k));
      shared.push_back(alone.back());
      alone_sums.emplace_back(segments[k].size(), -1);
      shared_sums.push_back(alone_sums.back());
      coefficients.emplace_back();
      for (size_t i = 0; i < segments[k].size(); ++i) {
        coefficients.back().push_back(ExampleAdamCoefficients(i + k));
      }
    }
    // Of each state a copy on the device, and back.
    const auto run = [&](std::vector<StepMemory>& memories, std::vector<std::vector<double>>& sums,
                         bool together) {
      std::vector<Buffer> values, first, second;
      std::vector<AdamStepArgs> all;
      for (size_t k = 0; k < memories.size(); ++k) {
        values.push_back(Put(memories[k].values));
        first.push_back(Put(memories[k].first));
        second.push_back(Put(memories[k].second));
        all.push_back({segments[k], coefficients[k], values[k].as<float>(), first[k].as<float>(),
                       second[k].as<float>(), sums[k], replay});
      }
      if (together) {
        EXPECT_OK(backend_->AdamSteps(all));
      } else {
        for (const AdamStepArgs& args : all) EXPECT_OK(backend_->AdamStep(args));
      }
      for (size_t k = 0; k < memories.size(); ++k) {
        memories[k].values = Get<float>(values[k]);
        memories[k].first = Get<float>(first[k]);
        memories[k].second = Get<float>(second[k]);
      }
    };
    run(alone, alone_sums, /*together=*/false);
    run(shared, shared_sums, /*together=*/true);
    EXPECT_EQ(shared, alone);
    EXPECT_EQ(shared_sums, alone_sums);
  }
}

TEST_P(OptimizerStepsTest, RefusesArgumentsThatDoNotAgree) {
  const auto invalid = [](const char* text) {
    return testing::IsError(absl::StatusCode::kInvalidArgument, text);
  };
  float x[64] = {};
  uint32_t signs[4] = {};
  const StepPointers good = {x, x, x, signs};
  std::vector<double> sums(2);
  const auto take = [&](Rule rule, std::vector<Segment> segments, const StepPointers& memory) {
    return TakeStep(*backend_, rule, segments, memory, sums);
  };
  for (const Rule rule : kAllRules) {
    SCOPED_TRACE(rule);
    EXPECT_THAT(take(rule, {{0, 1}}, good),
                invalid("wrong size: square_sums has 2 elements, expected 1"));
    EXPECT_THAT(take(rule, {{0, 1}, {16, 0}}, good), invalid("empty segment: segment 1"));
    EXPECT_THAT(take(rule, {{0, 17}, {16, 1}}, good), invalid("overlap or descend: segment 1"));
    EXPECT_THAT(take(rule, {{0, 1}, {16, std::numeric_limits<size_t>::max()}}, good),
                invalid("segment too long: segment 1"));
    EXPECT_THAT(take(rule, {{0, 1}, {16, 1}}, {nullptr, x, x, signs}),
                invalid("missing arena: values"));
    EXPECT_THAT(take(rule, {{0, 1}, {16, 1}}, {x, nullptr, x, signs}), invalid("missing arena"));
  }
  EXPECT_THAT(take(Rule::kAdam, {{0, 1}, {16, 1}}, {x, x, nullptr, signs}),
              invalid("missing arena: second_moment"));
  EXPECT_THAT(take(Rule::kLion, {{0, 1}, {16, 1}}, {x, x, x, nullptr}),
              invalid("missing arena: signs"));
  EXPECT_THAT(take(Rule::kLion, {{0, 1}, {8, 1}}, good), invalid("misaligned segment: segment 1"));
  EXPECT_THAT(backend_->SgdStep({std::vector<Segment>{{0, 1}}, {}, x, x, sums}),
              invalid("wrong size: coefficients has 0 elements, expected 1"));
  EXPECT_THAT(std::vector<float>(std::begin(x), std::end(x)), Each(0));
}

INSTANTIATE_TEST_SUITE_P(Backends, OptimizerStepsTest, kAllBackends, BackendParamName);

}  // namespace
}  // namespace mnemosyne::kernels
