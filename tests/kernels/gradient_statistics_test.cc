#include "kernels/gradient_statistics.h"

#include <limits>

#include "kernels/reference/reference_ops.h"
#include "tests/kernels/backend_param.h"
#include "tests/kernels/step_example.h"

namespace mnemosyne::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMax = std::numeric_limits<float>::max();

class GradientStatisticsTest : public BackendTest {
 protected:
  const std::vector<Segment> segments_ = ExampleSegments();
  std::vector<GradientStatistics> statistics_ = std::vector<GradientStatistics>(segments_.size());
};

TEST_P(GradientStatisticsTest, SumsSquaresInFloat64) {
  const StepMemory memory(segments_);
  const Buffer values = Put(memory.values);
  std::vector<GradientStatistics> expected(segments_.size());
  reference::MeasureGradients({segments_, memory.values.data(), expected});

  ASSERT_OK(backend_->MeasureGradients({segments_, values.as<float>(), statistics_}));

  for (size_t i = 0; i < segments_.size(); ++i) {
    EXPECT_NEAR(statistics_[i].square_sum, expected[i].square_sum, 1e-12 * expected[i].square_sum);
    EXPECT_EQ(statistics_[i].non_finite_count, 0);
  }
}

TEST_P(GradientStatisticsTest, CountsWhatIsNotFiniteAndLeavesItOut) {
  const std::vector<Segment> segments = {{0, 3}, {16, 40}, {64, 1}};
  std::vector<float> host(80, kNan);  // The gaps must not count.
  host[0] = 2, host[1] = kNan, host[2] = kMax;
  for (size_t i = 16; i < 56; ++i) host[i] = 0.5F;
  host[16] = kInf, host[35] = -kInf, host[55] = -kNan;
  host[64] = -3;
  const Buffer values = Put(host);
  std::vector<GradientStatistics> statistics(3);

  ASSERT_OK(backend_->MeasureGradients({segments, values.as<float>(), statistics}));

  EXPECT_EQ(statistics[0].non_finite_count, 1);
  EXPECT_EQ(statistics[0].square_sum, 4 + static_cast<double>(kMax) * static_cast<double>(kMax));
  EXPECT_EQ(statistics[1].non_finite_count, 3);
  EXPECT_EQ(statistics[1].square_sum, 37 * 0.25);
  EXPECT_EQ(statistics[2].non_finite_count, 0);
  EXPECT_EQ(statistics[2].square_sum, 9);
}

TEST_P(GradientStatisticsTest, ZeroesWhatIsNotFinite) {
  const std::vector<Segment> segments = {{0, 3}, {16, 40}};
  std::vector<float> host(64, kNan);
  host[0] = 2, host[1] = kNan, host[2] = -kMax;
  for (size_t i = 16; i < 56; ++i) host[i] = static_cast<float>(i) - 30;
  host[16] = kInf, host[35] = -kInf, host[55] = kNan;
  std::vector<float> expected = host;
  reference::ZeroNonFinite(segments, expected.data());
  const Buffer values = Put(host);

  ASSERT_OK(backend_->ZeroNonFinite(segments, values.as<float>()));

  EXPECT_THAT(Get<float>(values), ::testing::Pointwise(::testing::NanSensitiveFloatEq(), expected));
  EXPECT_THAT(std::span(expected).first(3), ::testing::ElementsAre(2, 0, -kMax));
}

TEST_P(GradientStatisticsTest, SetsSegmentsToZero) {
  const Buffer values = Put(std::vector<float>(64, 5));

  ASSERT_OK(backend_->SetZero(std::vector<Segment>{{0, 3}, {16, 40}}, values.as<float>()));

  std::vector<float> expected(64, 5);
  std::fill_n(expected.begin(), 3, 0.0F);
  std::fill_n(expected.begin() + 16, 40, 0.0F);
  EXPECT_EQ(Get<float>(values), expected);
}

TEST_P(GradientStatisticsTest, RefusesArgumentsThatDoNotAgree) {
  const auto invalid = [](const char* text) {
    return testing::IsError(absl::StatusCode::kInvalidArgument, text);
  };
  float x[16] = {};
  const std::vector<Segment> one = {{0, 1}}, overlapping = {{0, 2}, {1, 1}};
  EXPECT_THAT(backend_->MeasureGradients({one, x, statistics_}),
              invalid("wrong size: statistics has 9 elements, expected 1"));
  EXPECT_THAT(backend_->MeasureGradients({one, nullptr, std::span(statistics_).first(1)}),
              invalid("missing arena: values"));
  EXPECT_THAT(backend_->ZeroNonFinite(overlapping, x), invalid("overlap"));
  EXPECT_THAT(backend_->SetZero(overlapping, x), invalid("overlap"));
}

INSTANTIATE_TEST_SUITE_P(Backends, GradientStatisticsTest, kAllBackends, BackendParamName);

}  // namespace
}  // namespace mnemosyne::kernels
