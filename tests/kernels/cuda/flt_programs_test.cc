// The programs of FLT attention on a GPU, run on the CPU, where they are more than the contract
// that flt_attention_test.cc holds them to: how calls are cut, which program takes what, and that
// no thread of a step waits for another.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "base/data_type.h"
#include "kernels/cuda/flt_plan.h"
#include "kernels/cuda/flt_runner.h"
#include "kernels/cuda/flt_team_part.h"
#include "tests/kernels/cuda/flt_emulation.h"
#include "tests/kernels/cuda/one_thread.h"
#include "tests/kernels/flt_example.h"

namespace mnemosyne::kernels::cuda {
namespace {

using testing::NormalFloats;

constexpr double kTolerance = 1e-5;

constexpr FltProgramKind kBlocks = FltProgramKind::kBlocks, kTeams = FltProgramKind::kTeams,
                         kQuick = FltProgramKind::kQuick;
constexpr FltProgramKind kKinds[] = {kBlocks, kTeams, kQuick};

size_t SumCount(const FltExample& example) { return FltShape::Of(example.kernel.sizes).SumCount(); }

// The CPU's memory, and the programs.
class FltProgramsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto created = CreateBackend("cpu", {.threads = 1});
    ASSERT_OK(created);
    cpu_ = *std::move(created);
  }

  // Runs `args`; returns the parts that teams took, or the quick program.
  size_t Attend(const FltAttentionArgs& args, FltProgramKind kind) {
    EmulatedFlt programs(kind);
    EXPECT_OK(FltRunner(*cpu_, programs).Attend(args));
    return kind == kQuick ? programs.quick_parts() : programs.team_parts();
  }

  std::unique_ptr<Backend> cpu_;
};

TEST_F(FltProgramsTest, PartsOfLongSequencesAnswerAsTheReference) {
  for (const FltProgramKind kind : kKinds) {
    for (const bool causal : {false, true}) {
      FltExample example({.causal = causal,
                          .batch = 1,
                          .heads = 1,
                          .length = 700,
                          .features = 16,
                          .padded = true});
      ASSERT_GT(
          PlanFlt(example.kernel.sizes, example.Rows(), SumCount(example), 3).front().parts.size(),
          2);

      EXPECT_EQ(Attend(example.Args(), kind) > 0, kind != kBlocks);

      EXPECT_LE(Distance(example.out, reference::Attend(example.Problem())), kTolerance);
    }
  }
}

TEST_F(FltProgramsTest, TeamsOfAllSizesAnswerAsTheReference) {
  for (const bool causal : {false, true}) {
    for (const auto& [features, values] :
         std::vector<std::pair<size_t, size_t>>{{64, 64}, {60, 100}, {100, 64}, {128, 128}}) {
      FltExample example({.causal = causal,
                          .batch = 1,
                          .heads = 2,
                          .length = 100,
                          .dim = 32,
                          .value_dim = values,
                          .features = features,
                          .waves = 8});

      // Three parts of sums of this size do not fit.
      const bool fits = !causal || features + values < 256;
      EXPECT_EQ(Attend(example.Args(), kTeams) > 0, fits);

      EXPECT_LE(Distance(example.out, reference::Attend(example.Problem())), kTolerance);
    }
  }
}

TEST_F(FltProgramsTest, TheUsualSizesTakeTeams) {
  for (const size_t features : {size_t{64}, size_t{128}}) {
    for (const FltType type : {FltType::kFloat32, FltType::kBFloat16, FltType::kFloat16}) {
      if (features > 64 && type == FltType::kFloat32) continue;  // Too much for causal teams.
      FltExample example({.dim = 64, .value_dim = 64, .features = features, .waves = 32});
      FltCall call = {};
      call.shape = FltShape::Of(example.kernel.sizes);
      call.arrays.type = type;
      const auto nothing = [](auto) {};
      EXPECT_TRUE(WithFltTeam<FltTask::kAddKeys>(call, nothing));
      EXPECT_TRUE(WithFltTeam<FltTask::kAnswerAll>(call, nothing));
      EXPECT_TRUE(WithFltTeam<FltTask::kAnswerCausal>(call, nothing));
    }
  }
}

TEST_F(FltProgramsTest, TheUsualSizesTakeTheQuickProgramAlone) {
  for (const bool causal : {false, true}) {
    FltExample example({.causal = causal,
                        .batch = 1,
                        .heads = 1,
                        .length = 200,
                        .dim = 64,
                        .value_dim = 64,
                        .features = 64,
                        .waves = 32});
    EmulatedFlt programs(kQuick);

    ASSERT_OK(FltRunner(*cpu_, programs).Attend(example.Args()));

    EXPECT_GT(programs.quick_parts(), 0);
    EXPECT_EQ(programs.careful_calls(), 0);
    EXPECT_LE(Distance(example.out, reference::Attend(example.Problem())), kTolerance);
  }
}

// Tensors of bfloat16, with the numbers that they keep of an example's; outputs are its own.
struct BFloat16Example {
  explicit BFloat16Example(const FltCase& c) : example(c) {
    for (const auto& [from, to] : {std::pair{&example.q, &q}, {&example.k, &k}, {&example.v, &v}}) {
      to->resize(from->size());
      auto* const wire = reinterpret_cast<std::byte*>(to->data());
      EncodeElements(DataType::kBFloat16, from->data(), wire, from->size());
      DecodeElements(DataType::kBFloat16, wire, from->data(), from->size());
    }
    out.resize(v.size());
  }
  FltAttentionArgs Args() {
    FltAttentionArgs args = example.Args();
    args.type = DataType::kBFloat16;
    args.q.data = q.data();
    args.k.data = k.data();
    args.v.data = v.data();
    args.out.data = out.data();
    return args;
  }
  // The greatest distance from the reference beyond rounding, which is half of a unit in the last
  // place; a unit may be a number's 128th.
  double Excess() const {
    const std::vector<double> expected = reference::Attend(example.Problem());
    double most = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      float actual = 0;
      DecodeElements(DataType::kBFloat16, reinterpret_cast<const std::byte*>(&out[i]), &actual, 1);
      const double distance = std::abs(static_cast<double>(actual) - expected[i]);
      if (!(distance - std::abs(expected[i]) / 256 <= most)) {
        most = distance - std::abs(expected[i]) / 256;
      }
    }
    return most;
  }

  FltExample example;
  std::vector<uint16_t> q, k, v, out;
};

TEST_F(FltProgramsTest, GroupsAnswerAsTheReference) {
  FltCase usual = {.batch = 1,
                   .heads = 2,
                   .length = 500,
                   .dim = 64,
                   .value_dim = 64,
                   .features = 64,
                   .waves = 32};
  std::vector<FltCase> cases(8, usual);
  cases[1].shift = 1e6F;
  cases[2].positions = 3;
  cases[3].rpe = RpeKind::kNone;
  cases[4].padded = cases[4].packed = true;
  cases[5].dim = 40;
  cases[5].value_dim = 24;
  cases[5].features = 50;
  cases[5].waves = 20;
  cases[6].map = "hyperbolic";
  cases[7].is_signed = true;
  for (size_t i = 0; i < 8; ++i) {
    cases.push_back(cases[i]);
    cases.back().causal = true;
  }
  for (const FltCase& c : cases) {
    SCOPED_TRACE(::testing::PrintToString(c));
    BFloat16Example example(c);
    EmulatedFlt programs(FltProgramKind::kGroups);

    ASSERT_OK(FltRunner(*cpu_, programs).Attend(example.Args()));

    EXPECT_EQ(programs.group_parts() > 1, c.positions == 1);
    EXPECT_EQ(programs.careful_calls(), 0);
    EXPECT_LE(example.Excess(), 3e-5);

    if (c.causal) continue;  // Of float32 tensors.
    FltExample full(c);
    EmulatedFlt others(FltProgramKind::kGroups);

    ASSERT_OK(FltRunner(*cpu_, others).Attend(full.Args()));

    EXPECT_EQ(others.group_parts() > 1, c.positions == 1);
    EXPECT_EQ(others.careful_calls(), 0);
    EXPECT_LE(Distance(full.out, reference::Attend(full.Problem())), kTolerance);
  }
}

// Rows whose steps from the middle of their tile are many turns.
TEST_F(FltProgramsTest, GroupsTakePositionsFarApart) {
  for (const bool causal : {false, true}) {
    BFloat16Example example(
        {.causal = causal, .length = 150, .dim = 64, .value_dim = 64, .waves = 32});
    for (size_t i = 0; i < example.example.positions.size(); ++i) {
      example.example.positions[i] = static_cast<float>(i * 7919 % 100000) + 0.25F;
    }
    EmulatedFlt programs(FltProgramKind::kGroups);

    ASSERT_OK(FltRunner(*cpu_, programs).Attend(example.Args()));

    EXPECT_EQ(programs.careful_calls(), 0);
    EXPECT_LE(example.Excess(), 3e-5);
  }
}

// What the quick program does not take, and says so of: numbers beyond float16, and keys so much
// larger than those before them that rows of their tile would lose digits.
TEST_F(FltProgramsTest, WhatTheQuickProgramCannotAnswerIsAnsweredByAnother) {
  FltExample large({.length = 40}), rising({.causal = true, .length = 40});
  large.q[5] = 1e5F;
  // The features of a long key are small: those after the first are larger by far.
  for (size_t i = 0; i < 16; ++i) rising.k[i] *= 30;
  for (FltExample* const example : {&large, &rising}) {
    FltExample same = *example;
    Attend(same.Args(), kBlocks);
    EmulatedFlt programs(kQuick);

    ASSERT_OK(FltRunner(*cpu_, programs).Attend(example->Args()));

    EXPECT_GT(programs.careful_calls(), 0);
    EXPECT_LE(Distance(example->out, same.out), 1e-3);
  }
}

TEST_F(FltProgramsTest, NormalizersAreThoseOfTheCpu) {
  for (const FltProgramKind kind : kKinds) {
    for (const bool causal : {false, true}) {
      FltExample example({.causal = causal, .length = 90, .padded = true});
      std::vector<float> expected(2 * 2 * 2 * 90), actual(expected.size());
      FltAttentionArgs args = example.Args();
      args.normalizers = expected.data();
      ASSERT_OK(cpu_->FltAttention(args));
      args.normalizers = actual.data();

      Attend(args, kind);

      // Those of other tiles differ in their scale.
      for (size_t row = 0; row < expected.size() / 2; ++row) {
        const float e = expected[2 * row + 1], a = actual[2 * row + 1];
        ASSERT_EQ(e > 0, a > 0);
        if (e <= 0) continue;
        const double log_e = std::log(static_cast<double>(e)) + expected[2 * row];
        const double log_a = std::log(static_cast<double>(a)) + actual[2 * row];
        EXPECT_NEAR(log_a, log_e, 2e-5);
      }
    }
  }
}

TEST_F(FltProgramsTest, AStateGoesOnByTheOtherProgram) {
  FltExample whole({.causal = true, .length = 100}), parts({.causal = true, .length = 100});
  Attend(whole.Args(), kBlocks);
  std::vector<float> state(4 * FltStateCount(parts.kernel.sizes));
  InitFltState(parts.kernel.sizes, 4, state.data());
  for (const auto& [first, count, kind] : std::vector<std::tuple<size_t, size_t, FltProgramKind>>{
           {0, 20, kTeams}, {20, 30, kBlocks}, {50, 31, kQuick}, {81, 19, kTeams}}) {
    FltAttentionArgs args = parts.Args();
    args.rows.length = count;
    args.rows.positions += first;
    args.q.data = parts.q.data() + first * 16;
    args.k.data = parts.k.data() + first * 16;
    args.v.data = parts.v.data() + first * 16;
    args.out.data = parts.out.data() + first * 16;
    args.state = state.data();
    Attend(args, kind);
  }
  EXPECT_LE(Distance(parts.out, whole.out), kTolerance);
}

TEST_F(FltProgramsTest, AStateIsLeftAloneWhereNumbersAreWrong) {
  FltExample example({.causal = true});
  example.v[7] = std::nanf("");
  std::vector<float> state(4 * FltStateCount(example.kernel.sizes));
  InitFltState(example.kernel.sizes, 4, state.data());
  const std::vector<float> before = state;
  FltAttentionArgs args = example.Args();
  args.state = state.data();
  EmulatedFlt programs(FltProgramKind::kQuick);

  EXPECT_THAT(FltRunner(*cpu_, programs).Attend(args),
              testing::IsError(absl::StatusCode::kInvalidArgument, "v has 1 numbers"));

  EXPECT_EQ(state, before);
}

TEST_F(FltProgramsTest, ARunnerTakesOneKernelAfterTheOther) {
  EmulatedFlt programs(FltProgramKind::kQuick);
  FltRunner runner(*cpu_, programs);
  for (const FltCase& c : {FltCase{}, FltCase{.dim = 8}, FltCase{.length = 80, .packed = true},
                           FltCase{.amplitude = 0.5F}, FltCase{}}) {
    FltExample example(c);

    ASSERT_OK(runner.Attend(example.Args()));

    EXPECT_LE(Distance(example.out, reference::Attend(example.Problem())), 4e-5);
  }
}

// The threads of a block in another order within each step.
TEST_F(FltProgramsTest, StepsDoNotDependOnTheOrderOfThreads) {
  for (const FltProgramKind kind : kKinds) {
    for (const bool causal : {false, true}) {
      for (const MaskForm form : {MaskForm::kAdditive, MaskForm::kMultiplicative}) {
        const FltCase c = {.form = form, .causal = causal, .length = 70, .padded = true};
        FltExample forwards(c), backwards(c);
        Attend(forwards.Args(), kind);

        OneThread::backwards = true;
        Attend(backwards.Args(), kind);
        OneThread::backwards = false;

        EXPECT_EQ(forwards.out, backwards.out);
      }
    }
  }
}

TEST_F(FltProgramsTest, GradientsDoNotDependOnTheOrderOfThreads) {
  for (const char* map : {"favor_plus", "dpfp"}) {
    for (const bool causal : {false, true}) {
      for (const MaskForm form : {MaskForm::kAdditive, MaskForm::kMultiplicative}) {
        const FltCase c = {
            .map = map, .form = form, .causal = causal, .length = 70, .waves = 3, .padded = true};
        FltExample example(c);
        std::vector<float> normalizers(2 * 2 * 2 * 70);
        FltAttentionArgs forward = example.Args();
        forward.normalizers = normalizers.data();
        ASSERT_OK(cpu_->FltAttention(forward));
        const auto run = [&](bool backwards) {
          std::vector<float> numbers(3 * example.q.size() + 3 * 2);
          const auto to = [&](size_t i) {
            return DenseOut(numbers.data() + i * example.q.size(), 2, 70, 16);
          };
          FltBackwardArgs args = {.kernel = &example.kernel,
                                  .rows = example.Rows(),
                                  .q = forward.q,
                                  .k = forward.k,
                                  .v = forward.v,
                                  .out = Dense(example.out.data(), 2, 70, 16),
                                  .normalizers = normalizers.data(),
                                  .out_gradient = forward.v,
                                  .q_gradient = to(0),
                                  .k_gradient = to(1),
                                  .v_gradient = to(2),
                                  .real_gradient = numbers.data() + 3 * example.q.size()};
          EmulatedFlt programs(kQuick);
          OneThread::backwards = backwards;
          EXPECT_OK(FltRunner(*cpu_, programs).Differentiate(args));
          OneThread::backwards = false;
          return numbers;
        };
        EXPECT_EQ(run(false), run(true));
      }
    }
  }
}

TEST_F(FltProgramsTest, TheUsualSizesTakeTheQuickBackwardPassAlone) {
  for (const bool causal : {false, true}) {
    FltExample example({.causal = causal,
                        .batch = 1,
                        .heads = 1,
                        .length = 200,
                        .dim = 64,
                        .value_dim = 64,
                        .features = 64,
                        .waves = 32});
    std::vector<float> normalizers(2 * 200), expected(3 * 200 * 64), actual(expected.size());
    FltAttentionArgs forward = example.Args();
    forward.normalizers = normalizers.data();
    ASSERT_OK(cpu_->FltAttention(forward));
    FltBackwardArgs args = {.kernel = &example.kernel,
                            .rows = example.Rows(),
                            .q = forward.q,
                            .k = forward.k,
                            .v = forward.v,
                            .out = Dense(example.out.data(), 1, 200, 64),
                            .normalizers = normalizers.data(),
                            .out_gradient = forward.v,
                            .q_gradient = {},
                            .k_gradient = {},
                            .v_gradient = {}};
    const auto to = [&](std::vector<float>& numbers) {
      args.q_gradient = DenseOut(numbers.data(), 1, 200, 64);
      args.k_gradient = DenseOut(numbers.data() + 200 * 64, 1, 200, 64);
      args.v_gradient = DenseOut(numbers.data() + 2 * 200 * 64, 1, 200, 64);
    };
    to(expected);
    ASSERT_OK(cpu_->FltAttentionBackward(args));
    to(actual);
    EmulatedFlt programs(kQuick);

    ASSERT_OK(FltRunner(*cpu_, programs).Differentiate(args));

    EXPECT_GT(programs.quick_back_parts(), 0);
    EXPECT_EQ(programs.careful_back_calls(), 0);
    EXPECT_LE(Distance(actual, expected), 2e-4);
  }
}

TEST(FltPlanTest, TakesEachRowOnce) {
  const std::vector<size_t> starts = {0, 5, 5, 9000, 50000};
  for (const size_t features : {size_t{16}, size_t{256}}) {
    for (const MaskForm form : {MaskForm::kAdditive, MaskForm::kMultiplicative}) {
      FltExample example(
          {.form = form, .length = 1, .value_dim = 128, .features = features, .waves = 64});
      FltRows rows = example.Rows();
      rows.length = 50000;
      rows.sequence_starts = starts;
      std::vector<uint8_t> taken(4 * 50000);
      for (const FltLaunchPlan& launch :
           PlanFlt(example.kernel.sizes, rows, SumCount(example), 3)) {
        size_t next = 0;
        for (size_t u = 0; u < launch.units.size(); ++u) {
          EXPECT_EQ(launch.units[u].first_part, next);
          for (uint32_t i = 0; i < launch.units[u].part_count; ++i, ++next) {
            const FltPart& part = launch.parts[next];
            EXPECT_EQ(part.unit, u);
            EXPECT_EQ(part.is_last != 0, i + 1 == launch.units[u].part_count);
            for (size_t r = part.first; r < part.first + part.count; ++r) {
              ++taken[(part.batch * 2 + part.head) * 50000 + r];
            }
          }
        }
        EXPECT_EQ(next, launch.parts.size());
        const size_t sums = FltShape::Of(example.kernel.sizes).SumCount();
        EXPECT_TRUE(launch.units.size() == 1 || launch.parts.size() * sums <= size_t{64} << 20);
      }
      EXPECT_EQ(std::count(taken.begin(), taken.end(), 1), 4 * 50000);
    }
  }
}

}  // namespace
}  // namespace mnemosyne::kernels::cuda
