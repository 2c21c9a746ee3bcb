// The backward pass of FLT attention against finite differences of the reference in double.
#include <cmath>
#include <functional>
#include <limits>

#include "kernels/cuda/flt_runner.h"
#include "kernels/flt/flt_transfer.h"
#include "tests/kernels/backend_param.h"
#include "tests/kernels/cuda/flt_emulation.h"
#include "tests/kernels/flt_example.h"

namespace mnemosyne::kernels {
namespace {

using testing::IsError;

constexpr MaskForm kTimes = MaskForm::kMultiplicative;

// The programs of a GPU, run on the CPU.
const BackendParam kEmulated = {"cpu", "emulated_cuda"};

// |a - b| over the root of the mean square.
constexpr double kTolerance = 2e-4;

// The gradients of a call, as the op gives them.
struct Gradients {
  std::vector<float> q, k, v, projection, frequencies, real, imaginary, constant;
};

class FltBackwardTest : public BackendTest {
 protected:
  void SetUp() override {
    if (GetParam().isa != kEmulated.isa) return BackendTest::SetUp();
    auto created = CreateBackend("cpu", {.threads = 1});
    ASSERT_OK(created);
    backend_ = *std::move(created);
    programs_ = std::make_unique<cuda::EmulatedFlt>(cuda::FltProgramKind::kGroups);
    emulated_ = std::make_unique<cuda::FltRunner>(*backend_, *programs_);
  }

  // With arrays of the host.
  absl::Status Attend(const FltAttentionArgs& args) {
    if (emulated_ == nullptr) return FltAttentionOfHost(*backend_, args);
    MNEMO_RETURN_IF_ERROR(Check(args));
    return emulated_->Attend(args);
  }
  absl::Status Differentiate(const FltBackwardArgs& args) {
    if (emulated_ == nullptr) return FltAttentionBackwardOfHost(*backend_, args);
    MNEMO_RETURN_IF_ERROR(Check(args));
    return emulated_->Differentiate(args);
  }

  // Of the sum of the outputs times `upstream`. The quick program gives no gradients of
  // projections.
  Gradients Run(FltExample& example, const std::vector<float>& upstream,
                bool of_projection = true) {
    const FltCase& c = example.example;
    std::vector<float> normalizers(2 * c.batch * c.heads * c.length);
    FltAttentionArgs forward = example.Args();
    forward.normalizers = normalizers.data();
    EXPECT_OK(Attend(forward));
    Gradients g;
    const FltSizes& sizes = example.kernel.sizes;
    g.q.resize(example.q.size());
    g.k.resize(example.k.size());
    g.v.resize(example.v.size());
    if (of_projection) g.projection.resize(example.kernel.projection.size());
    g.frequencies.resize(c.heads * sizes.waves * sizes.positions);
    g.real.resize(c.heads * sizes.waves);
    g.imaginary.resize(c.heads * sizes.waves);
    g.constant.resize(sizes.waves == 0 ? 0 : c.heads);
    FltBackwardArgs args = {.kernel = &example.kernel,
                            .rows = example.Rows(),
                            .q = forward.q,
                            .k = forward.k,
                            .v = forward.v,
                            .out = Dense(example.out.data(), c.heads, c.length, c.value_dim),
                            .normalizers = normalizers.data(),
                            .out_gradient = Dense(upstream.data(), c.heads, c.length, c.value_dim),
                            .q_gradient = DenseOut(g.q.data(), c.heads, c.length, c.dim),
                            .k_gradient = DenseOut(g.k.data(), c.heads, c.length, c.dim),
                            .v_gradient = DenseOut(g.v.data(), c.heads, c.length, c.value_dim),
                            .projection_gradient = of_projection ? g.projection.data() : nullptr,
                            .frequency_gradient = g.frequencies.data(),
                            .real_gradient = g.real.data(),
                            .imaginary_gradient = g.imaginary.data(),
                            .constant_gradient = g.constant.data()};
    EXPECT_OK(Differentiate(args));
    return g;
  }

  // Compares the gradient of some numbers of the problem, spread over them, with differences.
  void ExpectDifferences(const FltExample& example, const std::vector<float>& upstream,
                         std::vector<double> reference::FltProblem::*member,
                         const std::vector<float>& actual, const char* what) {
    if (actual.empty()) return;
    SCOPED_TRACE(what);
    reference::FltProblem problem = example.Problem();
    std::vector<double>& numbers = problem.*member;
    ASSERT_EQ(numbers.size(), actual.size());
    const auto loss = [&] {
      const std::vector<double> out = reference::Attend(problem);
      double sum = 0;
      for (size_t i = 0; i < out.size(); ++i) sum += out[i] * static_cast<double>(upstream[i]);
      return sum;
    };
    std::vector<double> expected, got;
    const size_t step = std::max<size_t>(1, actual.size() / 12);
    for (size_t i = 0; i < actual.size(); i += step) {
      const double at = numbers[i], by = 1e-5 * std::max(1.0, std::abs(at));
      numbers[i] = at + by;
      const double above = loss();
      numbers[i] = at - by;
      const double below = loss();
      numbers[i] = at;
      expected.push_back((above - below) / (2 * by));
      got.push_back(static_cast<double>(actual[i]));
    }
    double square = 0;
    for (const float g : actual) square += static_cast<double>(g) * static_cast<double>(g);
    const double scale = std::max(std::sqrt(square / static_cast<double>(actual.size())), 1e-4);
    for (size_t i = 0; i < got.size(); ++i) {
      // Denominators near 0 bend the loss within a difference.
      const double tolerance = example.example.clamp ? 50 * kTolerance : kTolerance;
      EXPECT_NEAR(got[i] / scale, expected[i] / scale, tolerance) << "number " << i * step;
    }
  }

  void ExpectGradients(FltCase c) {
    std::ostringstream name;
    PrintTo(c, &name);
    SCOPED_TRACE(name.str());
    c.heads = std::min<size_t>(c.heads, 2);
    FltExample example(c);
    const std::vector<float> upstream = FltNumbers(example.out.size(), 5, 1);

    const Gradients g = Run(example, upstream);
    ExpectNear(Run(example, upstream, false), g, c.clamp ? 1e-2 : kTolerance);

    using P = reference::FltProblem;
    ExpectDifferences(example, upstream, &P::q, g.q, "q");
    ExpectDifferences(example, upstream, &P::k, g.k, "k");
    ExpectDifferences(example, upstream, &P::v, g.v, "v");
    ExpectDifferences(example, upstream, &P::projection, g.projection, "projection");
    ExpectDifferences(example, upstream, &P::frequencies, g.frequencies, "frequencies");
    if (c.clamp) return;  // The floor, which follows the weights, counts as a constant.
    ExpectDifferences(example, upstream, &P::real, g.real, "real");
    ExpectDifferences(example, upstream, &P::imaginary, g.imaginary, "imaginary");
    if (c.form == kTimes) {
      ExpectDifferences(example, upstream, &P::constant, g.constant, "constant");
    }
  }

  // Those of `actual` that are there.
  static void ExpectNear(const Gradients& actual, const Gradients& expected, double tolerance) {
    const std::pair<std::vector<float> Gradients::*, const char*> members[] = {
        {&Gradients::q, "q"},
        {&Gradients::k, "k"},
        {&Gradients::v, "v"},
        {&Gradients::projection, "projection"},
        {&Gradients::frequencies, "frequencies"},
        {&Gradients::real, "real"},
        {&Gradients::imaginary, "imaginary"},
        {&Gradients::constant, "constant"}};
    for (const auto& [member, name] : members) {
      if ((actual.*member).empty() || Largest(expected.*member) < 1e-3) continue;
      EXPECT_LE(Distance(actual.*member, expected.*member), tolerance) << name;
    }
  }

  // The greatest difference beyond `step` of the number itself, over the root of the mean square.
  static double Excess(const std::vector<float>& actual, const std::vector<float>& expected,
                       double step) {
    double most = 0, square = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
      const auto e = static_cast<double>(expected[i]);
      const double excess = std::abs(static_cast<double>(actual[i]) - e) - step * std::abs(e);
      if (!(excess <= most)) most = excess;  // NaN stays.
      square += e * e;
    }
    return most / std::sqrt(square / static_cast<double>(actual.size()));
  }

  static float Largest(const std::vector<float>& numbers) {
    float most = 0;
    for (const float number : numbers) most = std::max(most, std::abs(number));
    return most;
  }

  std::unique_ptr<cuda::EmulatedFlt> programs_;
  std::unique_ptr<cuda::FltRunner> emulated_, other_;
};

TEST_P(FltBackwardTest, MatchesFiniteDifferencesWithEveryFeatureMap) {
  for (const char* map : {"favor_plus", "favor_plus_plus", "hyperbolic", "relu", "elu", "dpfp"}) {
    for (const bool causal : {false, true}) {
      ExpectGradients({.map = map,
                       .is_signed = true,
                       .causal = causal,
                       .batch = 1,
                       .heads = 1,
                       .length = 40,
                       .dim = 5,
                       .value_dim = 3,
                       .features = 10,
                       .waves = 3});
      ExpectGradients({.map = map,
                       .is_signed = true,
                       .form = kTimes,
                       .causal = causal,
                       .batch = 1,
                       .heads = 1,
                       .length = 40,
                       .dim = 5,
                       .value_dim = 3,
                       .features = 10,
                       .waves = 3});
    }
  }
}

TEST_P(FltBackwardTest, MatchesFiniteDifferencesWithPaddingPackingAndSeveralHeads) {
  for (const bool causal : {false, true}) {
    for (const MaskForm form : {MaskForm::kAdditive, kTimes}) {
      ExpectGradients({.positions = 2,
                       .form = form,
                       .causal = causal,
                       .length = 35,
                       .dim = 4,
                       .value_dim = 4,
                       .features = 8,
                       .waves = 3,
                       .padded = true,
                       .packed = true});
    }
    ExpectGradients({.rpe = RpeKind::kNone,
                     .causal = causal,
                     .length = 70,
                     .dim = 4,
                     .value_dim = 4,
                     .features = 8,
                     .waves = 0});
    ExpectGradients({.rpe = RpeKind::kLocalBox,
                     .form = kTimes,
                     .clamp = true,
                     .causal = causal,
                     .batch = 1,
                     .length = 40,
                     .dim = 4,
                     .value_dim = 4,
                     .features = 8,
                     .waves = 6,
                     .amplitude = 3});
  }
}

TEST_P(FltBackwardTest, WavesOfPaddingTakeNoPartWithAnyFeatureMap) {
  for (const char* map : {"hyperbolic", "relu", "elu", "dpfp"}) {
    for (const MaskForm form : {MaskForm::kAdditive, kTimes}) {
      ExpectGradients({.map = map,
                       .form = form,
                       .batch = 1,
                       .heads = 1,
                       .length = 20,
                       .dim = 3,
                       .value_dim = 3,
                       .features = 6,
                       .waves = 2,
                       .padded = true});
    }
  }
}

// Gradients of 16-bit tensors, against those that the CPU has of the same numbers in float32.
// Outputs that are rounded cost more than the programs' own factors of 8 bits.
TEST_P(FltBackwardTest, TakesSixteenBitTensors) {
  auto cpu = CreateBackend("cpu", {.threads = 1});
  ASSERT_OK(cpu);
  for (const DataType type : {DataType::kBFloat16, DataType::kFloat16}) {
    for (const bool causal : {false, true}) {
      SCOPED_TRACE(::testing::Message()
                   << "causal " << causal << " of type " << DataTypeName(type));
      FltExample example({.is_signed = true,
                          .causal = causal,
                          .batch = 1,
                          .length = 300,
                          .dim = 32,
                          .value_dim = 24,
                          .features = 48,
                          .size = 0.7F,
                          .padded = true});
      const size_t rows = 2 * 300;
      const auto encode = [&](std::vector<float>& numbers) {
        std::vector<uint16_t> wire(numbers.size());
        EncodeElements(type, numbers.data(), reinterpret_cast<std::byte*>(wire.data()),
                       numbers.size());
        DecodeElements(type, reinterpret_cast<const std::byte*>(wire.data()), numbers.data(),
                       numbers.size());
        return wire;
      };
      std::vector<float> upstream = FltNumbers(example.out.size(), 5, 1);
      const std::vector<uint16_t> q = encode(example.q), k = encode(example.k),
                                  v = encode(example.v), g = encode(upstream);
      std::vector<uint16_t> out(v.size()), dq(q.size()), dk(k.size()), dv(v.size());
      std::vector<float> normalizers(2 * rows);
      FltAttentionArgs forward = example.Args();
      forward.type = type;
      forward.q.data = q.data();
      forward.k.data = k.data();
      forward.v.data = v.data();
      forward.out.data = out.data();
      forward.normalizers = normalizers.data();
      ASSERT_OK(Attend(forward));
      const size_t waves = example.kernel.sizes.waves;
      Gradients actual;
      actual.real.resize(2 * waves);
      actual.frequencies.resize(2 * waves);
      ASSERT_OK(Differentiate({.kernel = &example.kernel,
                               .rows = example.Rows(),
                               .type = type,
                               .q = forward.q,
                               .k = forward.k,
                               .v = forward.v,
                               .out = Dense(out.data(), 2, 300, 24),
                               .normalizers = normalizers.data(),
                               .out_gradient = Dense(g.data(), 2, 300, 24),
                               .q_gradient = DenseOut(dq.data(), 2, 300, 32),
                               .k_gradient = DenseOut(dk.data(), 2, 300, 32),
                               .v_gradient = DenseOut(dv.data(), 2, 300, 24),
                               .frequency_gradient = actual.frequencies.data(),
                               .real_gradient = actual.real.data()}));
      std::swap(backend_, *cpu);
      std::swap(emulated_, other_);
      const Gradients expected = Run(example, upstream, false);
      std::swap(backend_, *cpu);
      std::swap(emulated_, other_);
      const auto decode = [&](const std::vector<uint16_t>& wire) {
        std::vector<float> numbers(wire.size());
        DecodeElements(type, reinterpret_cast<const std::byte*>(wire.data()), numbers.data(),
                       numbers.size());
        return numbers;
      };
      actual.q = decode(dq);
      actual.k = decode(dk);
      actual.v = decode(dv);
      const bool brain = type == DataType::kBFloat16;
      for (const auto member : {&Gradients::q, &Gradients::k, &Gradients::v, &Gradients::real,
                                &Gradients::frequencies}) {
        EXPECT_LE(Excess(actual.*member, expected.*member, brain ? 1.0 / 256 : 1.0 / 2048),
                  brain ? 0.1 : 5e-3);
      }
    }
  }
}

// Several parts, and tiles whose logarithms rise by more than a part may.
TEST_P(FltBackwardTest, CutSequencesHaveTheGradientsOfTheCpu) {
  auto cpu = CreateBackend("cpu", {.threads = 1});
  ASSERT_OK(cpu);
  for (const bool causal : {false, true}) {
    for (const MaskForm form : {MaskForm::kAdditive, kTimes}) {
      for (const float size : {1.0F, 6.0F}) {
        FltExample example({.is_signed = true,
                            .form = form,
                            .causal = causal,
                            .batch = 1,
                            .length = 500,
                            .value_dim = 20,
                            .features = 24,
                            .size = size,
                            .padded = true,
                            .packed = true});
        const std::vector<float> upstream = FltNumbers(example.out.size(), 5, 1);
        const Gradients actual = Run(example, upstream);
        const Gradients quick = Run(example, upstream, false);
        std::swap(backend_, *cpu);
        std::swap(emulated_, other_);
        const Gradients expected = Run(example, upstream);
        std::swap(backend_, *cpu);
        std::swap(emulated_, other_);

        const double tolerance = size > 1 ? 5e-3 : 1e-4;
        ExpectNear(actual, expected, tolerance);
        ExpectNear(quick, expected, 2 * tolerance);
      }
    }
  }
}

TEST_P(FltBackwardTest, TakesLargeSizes) {
  ExpectGradients({.batch = 1,
                   .heads = 1,
                   .length = 9,
                   .dim = 128,
                   .value_dim = 128,
                   .features = 256,
                   .waves = 128});
  ExpectGradients({.causal = true,
                   .batch = 1,
                   .heads = 1,
                   .length = 9,
                   .dim = 64,
                   .value_dim = 64,
                   .features = 64,
                   .waves = 32});
}

TEST_P(FltBackwardTest, StaysFiniteWithLargeNorms) {
  for (const bool causal : {false, true}) {
    FltExample example({.causal = causal, .length = 100, .size = 10});

    const Gradients g = Run(example, FltNumbers(example.out.size(), 5, 1));

    for (const auto* numbers : {&g.q, &g.k, &g.v, &g.projection, &g.real}) {
      for (const float number : *numbers) ASSERT_TRUE(std::isfinite(number));
    }
  }
}

TEST_P(FltBackwardTest, SaysWhatIsWrongWithItsInput) {
  FltExample example({});
  FltBackwardArgs args;
  args.kernel = &example.kernel;
  args.rows = example.Rows();
  args.q = example.Args().q;
  args.k = example.Args().k;
  args.v = args.out = args.out_gradient = example.Args().v;

  EXPECT_THAT(Differentiate(args),
              IsError(absl::StatusCode::kInvalidArgument, "normalizers is null"));

  std::vector<float> upstream(example.out.size(), 1), normalizers(4 * example.example.length * 2);
  FltAttentionArgs forward = example.Args();
  forward.normalizers = normalizers.data();
  ASSERT_OK(Attend(forward));
  args.normalizers = normalizers.data();
  args.out = args.out_gradient = Dense(upstream.data(), 2, example.example.length, 16);
  const auto refused = [&](std::vector<float>& numbers, std::string_view message) {
    const float good = std::exchange(numbers[7], std::nanf(""));
    EXPECT_THAT(Differentiate(args), IsError(absl::StatusCode::kInvalidArgument, message));
    numbers[7] = good;
  };
  refused(upstream, "out_gradient has 1 numbers that are NaN or infinite");
  refused(example.q, "q has 1 numbers");
  refused(example.k, "k has 1 numbers");
  refused(example.v, "v has 1 numbers");
  refused(example.positions, "coordinate 0 of row 7 is nan");
  EXPECT_OK(Differentiate(args));
}

INSTANTIATE_TEST_SUITE_P(Backends, FltBackwardTest, kAllBackends, BackendParamName);
INSTANTIATE_TEST_SUITE_P(Programs, FltBackwardTest, ::testing::Values(kEmulated), BackendParamName);

}  // namespace
}  // namespace mnemosyne::kernels
