#include "optim/gradient_policy.h"

#include <cmath>
#include <limits>

#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::IsError;

class GradientPolicyTest : public ::testing::Test {
 protected:
  GradientPolicyTest() {
    parameters_.resize(3);
    for (size_t i = 0; i < 3; ++i) parameters_[i].name = std::string(1, static_cast<char>('a' + i));
    plan_.parameters.resize(3);
  }

  absl::StatusOr<GradientVerdict> Apply() {
    return ApplyGradientPolicy(policy_, statistics_, parameters_, plan_);
  }

  // Norms 3, 4 and 12, together 13.
  std::vector<kernels::GradientStatistics> statistics_ = {{9, 0}, {16, 0}, {144, 0}};
  std::vector<ParameterSpec> parameters_;
  GradientPolicy policy_;
  StepPlan plan_;
};

TEST_F(GradientPolicyTest, LeavesGoodGradientsAlone) {
  auto verdict = Apply();

  ASSERT_OK(verdict);
  EXPECT_DOUBLE_EQ(verdict->gradient_norm, 13);
  EXPECT_EQ(verdict->clip_factor, 1);
  EXPECT_FALSE(verdict->zero_non_finite);
  for (const ParameterStep& part : plan_.parameters) {
    EXPECT_TRUE(part.takes_part);
    EXPECT_EQ(part.gradient_scale, 1);
  }
}

TEST_F(GradientPolicyTest, ClipsTheNormOfAllGradients) {
  policy_.global_norm_max = 6.5;

  auto verdict = Apply();

  ASSERT_OK(verdict);
  EXPECT_DOUBLE_EQ(verdict->clip_factor, 0.5);
  EXPECT_DOUBLE_EQ(verdict->gradient_norm, 13);
  for (const ParameterStep& part : plan_.parameters) EXPECT_EQ(part.gradient_scale, 0.5F);
}

TEST_F(GradientPolicyTest, DoesNotStretchAShortGradient) {
  policy_.global_norm_max = 13.5;
  policy_.tensor_norm_max = 12.5;

  auto verdict = Apply();

  ASSERT_OK(verdict);
  EXPECT_EQ(verdict->clip_factor, 1);
  for (const ParameterStep& part : plan_.parameters) EXPECT_EQ(part.gradient_scale, 1);
}

TEST_F(GradientPolicyTest, ClipsEachTensorBeforeAll) {
  policy_.tensor_norm_max = 4;
  policy_.global_norm_max = std::sqrt(41.0) / 2;  // Half of what 3, 4 and 4 make.

  auto verdict = Apply();

  ASSERT_OK(verdict);
  EXPECT_DOUBLE_EQ(verdict->clip_factor, 0.5);
  EXPECT_FLOAT_EQ(plan_.parameters[0].gradient_scale, 0.5F);
  EXPECT_FLOAT_EQ(plan_.parameters[1].gradient_scale, 0.5F);
  EXPECT_FLOAT_EQ(plan_.parameters[2].gradient_scale, 0.5F / 3);
}

TEST_F(GradientPolicyTest, DoesNotCountWhoDoesNotTakePart) {
  policy_.global_norm_max = 2.5;
  plan_.parameters[2].takes_part = false;
  statistics_[2].non_finite_count = 1;  // Left over from another step.

  auto verdict = Apply();

  ASSERT_OK(verdict);
  EXPECT_DOUBLE_EQ(verdict->gradient_norm, 5);
  EXPECT_DOUBLE_EQ(verdict->clip_factor, 0.5);
  EXPECT_EQ(verdict->non_finite_count, 0);
}

TEST_F(GradientPolicyTest, RejectsByDefaultNamingTheParameter) {
  statistics_[1].non_finite_count = 7;
  statistics_[2].non_finite_count = 1;

  const auto verdict = Apply();

  EXPECT_THAT(verdict, IsError(absl::StatusCode::kInvalidArgument,
                               "gradient not finite: parameter b has 7 elements"));
  EXPECT_EQ(ErrorReason(verdict.status()), "NON_FINITE");
  EXPECT_EQ(ErrorMetadata(verdict.status())["parameter"], "b");
}

TEST_F(GradientPolicyTest, SkipsTensorsThatAreNotFinite) {
  policy_.non_finite = NonFinitePolicy::kSkip;
  policy_.global_norm_max = 2.5;
  statistics_[2].non_finite_count = 2;

  auto verdict = Apply();

  ASSERT_OK(verdict);
  EXPECT_THAT(verdict->skipped, ElementsAre(2));
  EXPECT_FALSE(plan_.parameters[2].takes_part);
  EXPECT_TRUE(plan_.parameters[0].takes_part);
  EXPECT_EQ(verdict->non_finite_count, 2);
  EXPECT_DOUBLE_EQ(verdict->gradient_norm, 13);  // Of all that was sent.
  EXPECT_DOUBLE_EQ(verdict->clip_factor, 0.5);   // Of what is used.
  EXPECT_FALSE(verdict->zero_non_finite);
}

TEST_F(GradientPolicyTest, ZeroesElementsThatAreNotFinite) {
  policy_.non_finite = NonFinitePolicy::kZero;
  statistics_[0].non_finite_count = 1;

  auto verdict = Apply();

  ASSERT_OK(verdict);
  EXPECT_TRUE(verdict->zero_non_finite);
  EXPECT_THAT(verdict->skipped, IsEmpty());
  EXPECT_TRUE(plan_.parameters[0].takes_part);
  EXPECT_EQ(verdict->non_finite_count, 1);
}

TEST_F(GradientPolicyTest, MindsNoGradientOfZeros) {
  policy_.global_norm_max = policy_.tensor_norm_max = 1;
  statistics_ = {{0, 0}, {0, 0}, {0, 0}};

  auto verdict = Apply();

  ASSERT_OK(verdict);
  EXPECT_EQ(verdict->gradient_norm, 0);
  EXPECT_EQ(verdict->clip_factor, 1);
}

TEST_F(GradientPolicyTest, RefusesBoundsThatAreNotAboveZero) {
  EXPECT_OK(policy_.Check());
  for (const double bound : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity()}) {
    EXPECT_THAT((GradientPolicy{NonFinitePolicy::kReject, bound, {}}.Check()),
                IsError(absl::StatusCode::kInvalidArgument, "wrong bound: clipping.global_norm"));
    EXPECT_THAT((GradientPolicy{NonFinitePolicy::kReject, {}, bound}.Check()),
                IsError(absl::StatusCode::kInvalidArgument, "wrong bound: clipping.tensor_norm"));
  }
}

}  // namespace
}  // namespace mnemosyne::optim
