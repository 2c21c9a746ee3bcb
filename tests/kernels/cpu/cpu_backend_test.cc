#include "kernels/cpu/cpu_backend.h"

#include "kernels/cpu/instruction_set.h"
#include "tests/kernels/step_example.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::kernels::cpu {
namespace {

struct Result {
  StepMemory memory;
  std::vector<double> square_sums;
  std::vector<double> gradient_square_sums;

  bool operator==(const Result&) const = default;
};

Result TakeStepWith(const CpuOptions& options, Rule rule) {
  const std::vector<Segment> segments = ExampleSegments();
  Result result{StepMemory(segments), std::vector<double>(segments.size()), {}};
  auto backend = CpuBackend::Create(options);
  EXPECT_OK(backend);
  std::vector<GradientStatistics> statistics(segments.size());
  EXPECT_OK((*backend)->MeasureGradients({segments, result.memory.values.data(), statistics}));
  for (const auto& measured : statistics) {
    result.gradient_square_sums.push_back(measured.square_sum);
  }
  EXPECT_OK(TakeStep(**backend, rule, segments, PointersTo(result.memory), result.square_sums));
  return result;
}

TEST(CpuBackendTest, GivesTheSameBitsWhateverTheThreads) {
  for (const KernelTable* kernels : SupportedKernels()) {
    for (const Rule rule : kAllRules) {
      const Result expected = TakeStepWith({.threads = 1, .isa = kernels->name}, rule);
      for (const int threads : {2, 3, 7}) {
        EXPECT_TRUE(TakeStepWith({.threads = threads, .isa = kernels->name}, rule) == expected)
            << kernels->name << ", " << rule << ", " << threads << " threads";
      }
    }
  }
}

TEST(CpuBackendTest, GivesTheSameBitsWithAvx2AndAvx512) {
  if (!FindKernels("avx512").ok()) GTEST_SKIP() << "no AVX-512";
  for (const Rule rule : kAllRules) {
    EXPECT_TRUE(TakeStepWith({.threads = 1, .isa = "avx2"}, rule) ==
                TakeStepWith({.threads = 1, .isa = "avx512"}, rule))
        << rule;
  }
}

TEST(CpuBackendTest, MeasuresTheSameBitsWithEveryInstructionSet) {
  const Result expected = TakeStepWith({.threads = 1, .isa = "baseline"}, Rule::kSgd);
  for (const KernelTable* kernels : SupportedKernels()) {
    EXPECT_EQ(TakeStepWith({.threads = 1, .isa = kernels->name}, Rule::kSgd).gradient_square_sums,
              expected.gradient_square_sums)
        << kernels->name;
  }
}

TEST(CpuBackendTest, DoesNotMindTheAlignmentOfAnArena) {
  for (const KernelTable* kernels : SupportedKernels()) {
    auto backend = CpuBackend::Create({.threads = 1, .isa = kernels->name});
    ASSERT_OK(backend);
    std::vector<float> values = testing::NormalFloats(101, 1), expected = values;
    const std::vector<Segment> from_zero = {{0, 100}}, from_one = {{1, 100}};
    std::vector<float> shifted(102);
    std::copy(values.begin(), values.end(), shifted.begin() + 1);
    std::vector<float> m(102), v(102), m1(102), v1(102);
    std::vector<double> sums(1), shifted_sums(1);
    const std::vector<AdamCoefficients> c = {ExampleAdamCoefficients(0)};

    ASSERT_OK((*backend)->AdamStep({from_zero, c, values.data(), m.data(), v.data(), sums}));
    ASSERT_OK(
        (*backend)->AdamStep({from_one, c, shifted.data(), m1.data(), v1.data(), shifted_sums}));

    EXPECT_TRUE(std::equal(values.begin(), values.begin() + 100, shifted.begin() + 1));
    EXPECT_EQ(sums, shifted_sums);
  }
}

TEST(InstructionSetTest, TakesTheFastestByDefault) {
  const auto found = FindKernels("auto");
  ASSERT_OK(found);
  EXPECT_EQ(*found, SupportedKernels().back());
}

TEST(InstructionSetTest, AlwaysHasTheBaseline) {
  EXPECT_EQ(SupportedKernels().front()->name, std::string_view("baseline"));
}

}  // namespace
}  // namespace mnemosyne::kernels::cpu
