#include "kernels/flt/flt_attention.h"

#include <cmath>
#include <limits>

#include "kernels/cuda/flt_runner.h"
#include "kernels/flt/flt_transfer.h"
#include "tests/kernels/backend_param.h"
#include "tests/kernels/cuda/flt_emulation.h"
#include "tests/kernels/flt_example.h"

namespace mnemosyne::kernels {
namespace {

using testing::IsError;
using testing::NormalFloats;

// |a - b| over the root of the mean square; float32 sums of some hundred terms.
constexpr double kTolerance = 1e-5;

// Where terms of both signs cancel in a denominator, or logarithms of features are large.
constexpr double kWideTolerance = 4e-5;
constexpr double kCancellingTolerance = 1e-4;  // Where few terms are left of it.

// Of outputs of 16 bits, besides their own rounding, on tensor cores.
constexpr double kSixteenBitTolerance = 3e-5;

constexpr MaskForm kTimes = MaskForm::kMultiplicative;

// The programs of a GPU, run on the CPU: that of a block, those of teams where they fit, the quick
// one where it does, and groups where those do.
const BackendParam kEmulatedBlocks = {"cpu", "emulated_cuda_blocks"};
const BackendParam kEmulatedTeams = {"cpu", "emulated_cuda_teams"};
const BackendParam kEmulatedQuick = {"cpu", "emulated_cuda_quick"};
const BackendParam kEmulatedGroups = {"cpu", "emulated_cuda_groups"};

class FltAttentionTest : public BackendTest {
 protected:
  void SetUp() override {
    auto kind = cuda::FltProgramKind::kBlocks;
    if (GetParam().isa == kEmulatedTeams.isa) {
      kind = cuda::FltProgramKind::kTeams;
    } else if (GetParam().isa == kEmulatedQuick.isa) {
      kind = cuda::FltProgramKind::kQuick;
    } else if (GetParam().isa == kEmulatedGroups.isa) {
      kind = cuda::FltProgramKind::kGroups;
    } else if (GetParam().isa != kEmulatedBlocks.isa) {
      return BackendTest::SetUp();
    }
    auto created = CreateBackend("cpu", {.threads = 1});
    ASSERT_OK(created);
    backend_ = *std::move(created);
    programs_ = std::make_unique<cuda::EmulatedFlt>(kind);
    emulated_ = std::make_unique<cuda::FltRunner>(*backend_, *programs_);
  }

  // Programs on tensor cores keep 16 bits of factors where outputs have fewer.
  static double SixteenBitTolerance() {
    const bool cpu = GetParam().device == "cpu" && GetParam().isa != kEmulatedTeams.isa &&
                     GetParam().isa != kEmulatedQuick.isa && GetParam().isa != kEmulatedGroups.isa;
    return cpu ? kTolerance : kSixteenBitTolerance;
  }

  // With arrays of the host.
  absl::Status Attend(const FltAttentionArgs& args) {
    if (emulated_ == nullptr) return FltAttentionOfHost(*backend_, args);
    MNEMO_RETURN_IF_ERROR(Check(args));
    return emulated_->Attend(args);
  }

  void ExpectReference(const FltCase& c, double tolerance = kTolerance) {
    std::ostringstream name;
    PrintTo(c, &name);
    SCOPED_TRACE(name.str());
    FltExample example(c);
    FltReport report;
    FltAttentionArgs args = example.Args();
    args.report = &report;

    ASSERT_OK(Attend(args));

    EXPECT_LE(Distance(example.out, reference::Attend(example.Problem())), tolerance);
    EXPECT_EQ(report.rows, c.batch * c.heads * c.length);
  }

  std::unique_ptr<cuda::EmulatedFlt> programs_;
  std::unique_ptr<cuda::FltRunner> emulated_;
};

TEST_P(FltAttentionTest, MatchesTheReferenceWithEveryFeatureMap) {
  for (const char* map : {"favor_plus", "favor_plus_plus", "hyperbolic", "relu", "elu", "dpfp"}) {
    for (const bool causal : {false, true}) {
      ExpectReference({.map = map, .causal = causal});
      ExpectReference({.map = map,
                       .causal = causal,
                       .length = 150,
                       .dim = 20,
                       .value_dim = 33,
                       .features = 46});
      ExpectReference({.map = map, .form = kTimes, .causal = causal});
      ExpectReference({.map = map, .rpe = RpeKind::kNone, .causal = causal, .waves = 0});
    }
  }
}

TEST_P(FltAttentionTest, MatchesTheReferenceWithEveryPositionalEncoding) {
  for (const bool causal : {false, true}) {
    for (const bool is_signed : {false, true}) {
      for (const MaskForm form : {MaskForm::kAdditive, kTimes}) {
        const auto with = [&](RpeKind kind, size_t positions) {
          ExpectReference({.rpe = kind,
                           .positions = positions,
                           .is_signed = is_signed,
                           .form = form,
                           .causal = causal,
                           .length = 70});
        };
        with(RpeKind::kGaussianMixture, 1);
        with(RpeKind::kGaussianMixture, 3);
        with(RpeKind::kShiftInvariant, 2);
        with(RpeKind::kLocalBox, 1);
        with(RpeKind::kLocalBox, 2);
        with(RpeKind::kLocalBall, 3);
      }
    }
    ExpectReference({.form = kTimes, .squared = true, .causal = causal, .length = 70},
                    kWideTolerance);
    ExpectReference({.rpe = RpeKind::kLocalBox,
                     .form = kTimes,
                     .clamp = true,
                     .causal = causal,
                     .length = 70,
                     .amplitude = 3},
                    kCancellingTolerance);
  }
}

TEST_P(FltAttentionTest, TakesSizesAroundAVectorsWidth) {
  for (const size_t length : {1U, 2U, 15U, 16U, 17U, 31U, 32U, 33U, 63U, 64U, 65U, 129U}) {
    for (const bool causal : {false, true}) {
      ExpectReference({.causal = causal, .length = length, .dim = 17, .value_dim = 15});
    }
  }
  ExpectReference({.length = 9, .dim = 128, .value_dim = 128, .features = 256, .waves = 128},
                  kWideTolerance);
  ExpectReference(
      {.causal = true, .length = 9, .dim = 1, .value_dim = 1, .features = 1, .waves = 1});
}

TEST_P(FltAttentionTest, LeavesOutPaddingAndKeepsPackedSequencesApart) {
  for (const bool causal : {false, true}) {
    for (const MaskForm form : {MaskForm::kAdditive, kTimes}) {
      ExpectReference({.form = form, .causal = causal, .length = 90, .padded = true});
      ExpectReference({.form = form, .causal = causal, .length = 90, .packed = true},
                      kWideTolerance);
      ExpectReference(
          {.form = form, .causal = causal, .length = 90, .padded = true, .packed = true},
          kWideTolerance);
    }
  }
}

TEST_P(FltAttentionTest, NeitherReadsNorTripsOverWhatIsInPadding) {
  FltExample example({.padded = true});
  ASSERT_OK(Attend(example.Args()));
  const std::vector<float> before = example.out;
  const size_t rows = example.q.size() / example.example.dim;
  for (size_t row = 0; row < rows; ++row) {
    const size_t batch = row / (example.example.heads * example.example.length);
    const size_t at = batch * example.example.length + row % example.example.length;
    if (example.mask[at] != 0) continue;
    example.q[row * example.example.dim] = std::numeric_limits<float>::quiet_NaN();
    example.k[row * example.example.dim] = std::numeric_limits<float>::infinity();
    example.v[row * example.example.value_dim] = 1e30F;
  }

  ASSERT_OK(Attend(example.Args()));

  EXPECT_EQ(example.out, before);
}

TEST_P(FltAttentionTest, StaysFiniteAndRightWithLargeNorms) {
  for (const char* map : {"favor_plus", "favor_plus_plus", "hyperbolic"}) {
    for (const bool causal : {false, true}) {
      // Logarithms of features reach some hundreds: a rounding of theirs is 1e-5 of a weight.
      ExpectReference({.map = map, .causal = causal, .length = 80, .size = 8}, 1e-3);
    }
  }
}

TEST_P(FltAttentionTest, KeepsARowApartFromLargeKeysThatComeLater) {
  FltExample example({.batch = 1, .heads = 1, .length = 64, .dim = 16});
  FltExample causal({.causal = true, .batch = 1, .heads = 1, .length = 64, .dim = 16});
  for (size_t i = 40 * 16; i < causal.k.size(); ++i) causal.k[i] *= 20;

  ASSERT_OK(Attend(causal.Args()));

  EXPECT_LE(Distance(causal.out, reference::Attend(causal.Problem())), 1e-3);
  // The rows before them have all their digits.
  FltExample alone({.causal = true, .batch = 1, .heads = 1, .length = 40, .dim = 16});
  alone.q.assign(causal.q.begin(), causal.q.begin() + 40 * 16);
  alone.k.assign(causal.k.begin(), causal.k.begin() + 40 * 16);
  alone.v.assign(causal.v.begin(), causal.v.begin() + 40 * 16);
  const std::vector<float> first(causal.out.begin(), causal.out.begin() + 40 * 16);
  EXPECT_LE(Distance(first, reference::Attend(alone.Problem())), kTolerance);
}

TEST_P(FltAttentionTest, AnswersTheSameWhenAllPositionsMoveByAMillion) {
  for (const size_t positions : {size_t{1}, size_t{3}}) {
    for (const MaskForm form : {MaskForm::kAdditive, kTimes}) {
      FltCase c = {.positions = positions, .is_signed = true, .form = form, .length = 200};
      FltExample near(c);
      c.shift = 1e6F;
      FltExample far(c);

      ASSERT_OK(Attend(near.Args()));
      ASSERT_OK(Attend(far.Args()));

      EXPECT_LE(Distance(far.out, near.out), kTolerance);
      EXPECT_LE(Distance(far.out, reference::Attend(far.Problem())), kTolerance);
    }
  }
}

TEST_P(FltAttentionTest, AStreamGoesOnWhereItStopped) {
  for (const MaskForm form : {MaskForm::kAdditive, kTimes}) {
    FltExample whole({.form = form, .causal = true, .length = 100});
    ASSERT_OK(Attend(whole.Args()));
    FltExample parts({.form = form, .causal = true, .length = 100});
    const FltSizes& sizes = parts.kernel.sizes;
    std::vector<float> state(4 * FltStateCount(sizes));
    InitFltState(sizes, 4, state.data());

    for (const auto& [first, count] :
         std::vector<std::pair<size_t, size_t>>{{0, 1}, {1, 40}, {41, 0}, {41, 32}, {73, 27}}) {
      if (count == 0) continue;
      FltAttentionArgs args = parts.Args();
      args.rows.length = count;
      args.rows.positions += first;
      args.q.data = parts.q.data() + first * 16;
      args.k.data = parts.k.data() + first * 16;
      args.v.data = parts.v.data() + first * 16;
      args.out.data = parts.out.data() + first * 16;
      args.state = state.data();
      ASSERT_OK(Attend(args));
    }

    EXPECT_LE(Distance(parts.out, whole.out), kTolerance);
    for (const float number : state) EXPECT_TRUE(std::isfinite(number));
  }
}

TEST_P(FltAttentionTest, GivesTheSameBitsWithAnyNumberOfThreads) {
  if (emulated_ != nullptr || !backend_->host_accessible()) GTEST_SKIP() << "has no threads to set";
  for (const bool causal : {false, true}) {
    const FltCase c = {
        .causal = causal, .batch = 1, .heads = 2, .length = 40000, .features = 16, .waves = 4};
    FltExample one(c), three(c);
    const auto make = [](int threads) {
      return *CreateBackend(GetParam().device, {.threads = threads, .isa = GetParam().isa});
    };

    ASSERT_OK(make(1)->FltAttention(one.Args()));
    ASSERT_OK(make(3)->FltAttention(three.Args()));

    EXPECT_EQ(one.out, three.out);
  }
}

TEST_P(FltAttentionTest, LongSequencesThatAreCutAnswerAsWhole) {
  // Eight sequences are left whole on the CPU, one is cut into parts.
  const size_t length = emulated_ != nullptr ? 1500 : 20000;
  FltCase c = {
      .causal = true, .batch = 8, .heads = 1, .length = length, .features = 16, .waves = 4};
  FltExample whole(c);
  ASSERT_OK(Attend(whole.Args()));
  c.batch = 1;
  FltExample cut(c);
  cut.q.assign(whole.q.begin(), whole.q.begin() + static_cast<ptrdiff_t>(cut.q.size()));
  cut.k.assign(whole.k.begin(), whole.k.begin() + static_cast<ptrdiff_t>(cut.k.size()));
  cut.v.assign(whole.v.begin(), whole.v.begin() + static_cast<ptrdiff_t>(cut.v.size()));

  ASSERT_OK(Attend(cut.Args()));

  whole.out.resize(cut.out.size());
  EXPECT_LE(Distance(cut.out, whole.out), 3e-5);
}

TEST_P(FltAttentionTest, TakesSixteenBitTensorsWithStrides) {
  for (const auto& of_call : std::vector<std::pair<DataType, bool>>{{DataType::kBFloat16, false},
                                                                    {DataType::kBFloat16, true},
                                                                    {DataType::kFloat16, false},
                                                                    {DataType::kFloat16, true}}) {
    const DataType type = of_call.first;
    const bool causal = of_call.second;
    // Rows of [batch, length, heads, dim], as many frameworks have them.
    const FltCase c = {.causal = causal};
    FltExample example(c);
    const auto encode = [&](std::vector<float>& numbers) {
      std::vector<uint16_t> wire(numbers.size());
      EncodeElements(type, numbers.data(), reinterpret_cast<std::byte*>(wire.data()),
                     numbers.size());
      DecodeElements(type, reinterpret_cast<const std::byte*>(wire.data()), numbers.data(),
                     numbers.size());
      std::vector<uint16_t> swapped(numbers.size());
      for (size_t i = 0; i < numbers.size(); ++i) {
        const size_t d = i % 16, row = i / 16 % c.length, head = i / 16 / c.length % 2,
                     batch = i / 16 / c.length / 2;
        swapped[((batch * c.length + row) * 2 + head) * 16 + d] = wire[i];
      }
      return swapped;
    };
    const std::vector<uint16_t> q = encode(example.q), k = encode(example.k), v = encode(example.v);
    std::vector<uint16_t> out(v.size());
    FltAttentionArgs args = example.Args();
    args.type = type;
    const auto in = [&](const std::vector<uint16_t>& x) {
      return TensorIn{x.data(), c.length * 32, 16, 32};
    };
    args.q = in(q);
    args.k = in(k);
    args.v = in(v);
    args.out = {out.data(), c.length * 32, 16, 32};

    ASSERT_OK(Attend(args));

    const std::vector<double> expected = reference::Attend(example.Problem());
    for (size_t i = 0; i < expected.size(); ++i) {
      const size_t d = i % 16, row = i / 16 % c.length, head = i / 16 / c.length % 2,
                   batch = i / 16 / c.length / 2;
      float actual = 0;
      DecodeElements(
          type,
          reinterpret_cast<const std::byte*>(&out[((batch * c.length + row) * 2 + head) * 16 + d]),
          &actual, 1);
      const double step = type == DataType::kBFloat16 ? 1.0 / 256 : 1.0 / 2048;
      ASSERT_NEAR(actual, expected[i], step * std::abs(expected[i]) + SixteenBitTolerance());
    }
  }
}

TEST_P(FltAttentionTest, ReportsTheShareOfRowsWithAClampedDenominator) {
  FltExample example(
      {.rpe = RpeKind::kLocalBox, .form = kTimes, .clamp = true, .length = 200, .amplitude = 3});
  FltReport report;
  FltAttentionArgs args = example.Args();
  args.report = &report;

  ASSERT_OK(Attend(args));

  EXPECT_GT(report.clamped_rows, 0);
  EXPECT_LT(report.clamped_rows, report.rows);
}

TEST_P(FltAttentionTest, SaysWhatIsWrongWithItsInput) {
  FltExample example({});
  const auto refused = [&](const FltAttentionArgs& args, std::string_view message) {
    EXPECT_THAT(Attend(args), IsError(absl::StatusCode::kInvalidArgument, message));
  };
  FltAttentionArgs args = example.Args();
  args.rows.length = 0;
  refused(args, "length is 0, expected 1 to");
  args = example.Args();
  args.rows.positions = nullptr;
  refused(args, "missing positions");
  args = example.Args();
  args.type = DataType::kFloat64;
  refused(args, "wrong type: float64");
  args = example.Args();
  args.q.row_stride = 3;
  refused(args, "rows of q are 3 apart, expected at least 16");
  args = example.Args();
  float state = 0;
  args.state = &state;
  refused(args, "a running state needs causal attention");
  const std::vector<size_t> starts = {0, 20, 10, 37};
  args = example.Args();
  args.rows.sequence_starts = starts;
  refused(args, "wrong sequence starts");
  example.positions[5] = 1e10F;
  refused(example.Args(), "coordinate 0 of row 5 is");
  example.positions[5] = std::numeric_limits<float>::quiet_NaN();
  refused(example.Args(), "coordinate 0 of row 5 is nan");
  example.positions[5] = 5;
  example.k[7] = std::numeric_limits<float>::quiet_NaN();
  refused(example.Args(), "k has 1 numbers that are NaN or infinite, in batch entry 0, head 0");
  example.k[7] = 0;
  for (float& number : example.v) number *= 3e38F;
  refused(example.Args(), "v has");
}

TEST_P(FltAttentionTest, RefusesAStateThatIsNotFinite) {
  FltExample example({.causal = true});
  std::vector<float> state(4 * FltStateCount(example.kernel.sizes));
  InitFltState(example.kernel.sizes, 4, state.data());
  state[70] = std::numeric_limits<float>::infinity();
  FltAttentionArgs args = example.Args();
  args.state = state.data();

  EXPECT_THAT(Attend(args),
              IsError(absl::StatusCode::kInvalidArgument, "running state of batch entry 0"));
}

INSTANTIATE_TEST_SUITE_P(Backends, FltAttentionTest, kAllBackends, BackendParamName);
INSTANTIATE_TEST_SUITE_P(Programs, FltAttentionTest,
                         ::testing::Values(kEmulatedBlocks, kEmulatedTeams, kEmulatedQuick,
                                           kEmulatedGroups),
                         BackendParamName);

}  // namespace
}  // namespace mnemosyne::kernels
