// The comparators of FLT attention against each other: where two of them must agree, they do.
#include "kernels/reference/flt_reference.h"

#include <cmath>

#include "tests/kernels/flt_example.h"

namespace mnemosyne::kernels::reference {
namespace {

constexpr double kExact = 1e-9;  // Both sides are in double.

const FltCase kTimes = {.map = "favor_plus",
                        .rpe = RpeKind::kGaussianMixture,
                        .form = MaskForm::kMultiplicative,
                        .batch = 1,
                        .heads = 2,
                        .length = 29,
                        .features = 24};

FltProblem ProblemOf(FltCase c) { return FltExample(c).Problem(); }

TEST(FltReferenceTest, AToeplitzMaskByFftIsThatOfTheFactor) {
  for (const bool causal : {false, true}) {
    FltCase c = kTimes;
    c.causal = causal;
    c.is_signed = true;
    const FltProblem problem = ProblemOf(c);

    EXPECT_LE(Distance(Attend(problem, AttentionMethod::kToeplitz), Attend(problem)), kExact);
  }
}

TEST(FltReferenceTest, UrpeWithAFlatMaskIsSoftmax) {
  FltCase c = kTimes;
  c.rpe = RpeKind::kNone;
  c.waves = 0;
  const FltProblem problem = ProblemOf(c);

  EXPECT_LE(Distance(Attend(problem, AttentionMethod::kUrpe),
                     Attend(problem, AttentionMethod::kExactSoftmax)),
            kExact);
}

TEST(FltReferenceTest, UrpeMultipliesSoftmaxWithTheMask) {
  const FltProblem problem = ProblemOf(kTimes);
  FltProblem flat = problem;
  flat.waves = 0;
  const std::vector<double> urpe = AttentionMatrix(problem, AttentionMethod::kUrpe, 0, 1);
  const std::vector<double> softmax = AttentionMatrix(flat, AttentionMethod::kExactSoftmax, 0, 1);

  for (size_t i = 0; i < problem.length; ++i) {
    for (size_t j = 0; j < problem.length; ++j) {
      const size_t at = i * problem.length + j;
      EXPECT_NEAR(urpe[at], softmax[at] * MaskAt(problem, 1, i, j), 1e-12);
    }
  }
}

TEST(FltReferenceTest, ManyFeaturesComeNearExactSoftmaxWithTheMask) {
  for (const MaskForm form : {MaskForm::kAdditive, MaskForm::kMultiplicative}) {
    FltCase c = kTimes;
    c.map = "hyperbolic";
    c.form = form;
    c.features = 256;
    c.size = 0.3F;
    const FltProblem problem = ProblemOf(c);
    const std::vector<double> flt = Attend(problem);
    const std::vector<double> exact = Attend(problem, AttentionMethod::kExactSoftmax);
    double error = 0, square = 0;
    for (size_t i = 0; i < flt.size(); ++i) {
      error += std::pow(flt[i] - exact[i], 2);
      square += exact[i] * exact[i];
    }

    EXPECT_LE(std::sqrt(error / square), form == MaskForm::kAdditive ? 0.25 : 0.03);
  }
}

TEST(FltReferenceTest, ProductsOfSpeRowsHaveTheMaskAsAMean) {
  FltCase c = kTimes;
  c.form = MaskForm::kAdditive;
  c.heads = 1;
  c.length = 6;
  c.dim = 2;
  c.waves = 3;
  const FltProblem problem = ProblemOf(c);
  constexpr size_t kRealizations = 200'000;
  const SpeRows rows = MakeSpeRows(problem, kRealizations, 5);

  for (size_t i = 0; i < c.length; ++i) {
    for (size_t j = 0; j < c.length; ++j) {
      double noisy = 0, dot = 0;
      for (size_t r = 0; r < kRealizations; ++r) {
        noisy += rows.q[i * kRealizations + r] * rows.k[j * kRealizations + r];
      }
      for (size_t d = 0; d < c.dim; ++d) {
        dot += problem.q[i * c.dim + d] * problem.k[j * c.dim + d] / std::sqrt(2.0);
      }
      EXPECT_NEAR(noisy, dot * MaskAt(problem, 0, i, j), 0.02);
    }
  }
  for (const double number : Attend(problem, AttentionMethod::kSpe)) {
    EXPECT_TRUE(std::isfinite(number));
  }
}

}  // namespace
}  // namespace mnemosyne::kernels::reference
