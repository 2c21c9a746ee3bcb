#include "optim/learning_rate_schedule.h"

#include <limits>

#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

using Shape = LearningRateSchedule::Shape;
using testing::IsError;

TEST(LearningRateScheduleTest, IsOneByDefault) {
  const LearningRateSchedule schedule;
  EXPECT_OK(schedule.Check());
  EXPECT_EQ(schedule.Factor(1), 1);
  EXPECT_EQ(schedule.Factor(1'000'000'000'000), 1);
}

TEST(LearningRateScheduleTest, WarmsUpLinearly) {
  const LearningRateSchedule schedule = {Shape::kConstant, 4};
  EXPECT_EQ(schedule.Factor(1), 0.25);
  EXPECT_EQ(schedule.Factor(3), 0.75);
  EXPECT_EQ(schedule.Factor(4), 1);
  EXPECT_EQ(schedule.Factor(5), 1);
}

TEST(LearningRateScheduleTest, FallsLinearly) {
  const LearningRateSchedule schedule = {Shape::kLinear, 2, 12, 0.5};
  EXPECT_OK(schedule.Check());
  EXPECT_EQ(schedule.Factor(2), 1);
  EXPECT_EQ(schedule.Factor(3), 1);
  EXPECT_DOUBLE_EQ(schedule.Factor(8), 0.75);
  EXPECT_DOUBLE_EQ(schedule.Factor(13), 0.5);
  EXPECT_DOUBLE_EQ(schedule.Factor(1000), 0.5);
}

TEST(LearningRateScheduleTest, FallsAlongACosine) {
  const LearningRateSchedule schedule = {Shape::kCosine, 0, 100, 0.2};
  EXPECT_EQ(schedule.Factor(1), 1);
  EXPECT_DOUBLE_EQ(schedule.Factor(51), 0.6);
  EXPECT_DOUBLE_EQ(schedule.Factor(101), 0.2);
  EXPECT_DOUBLE_EQ(schedule.Factor(5000), 0.2);
}

TEST(LearningRateScheduleTest, RefusesWhatCannotBe) {
  const auto check = [](const LearningRateSchedule& schedule) { return schedule.Check(); };
  const auto invalid = [](const char* text) {
    return IsError(absl::StatusCode::kInvalidArgument, text);
  };
  EXPECT_THAT(check({Shape::kConstant, -1}), invalid("negative steps"));
  EXPECT_THAT(check({Shape::kConstant, 0, -1}), invalid("negative steps"));
  EXPECT_THAT(check({Shape::kLinear, 0, 10, 1.5}), invalid("wrong final factor: 1.5"));
  EXPECT_THAT(check({Shape::kLinear, 0, 10, std::numeric_limits<double>::quiet_NaN()}),
              invalid("wrong final factor"));
  EXPECT_THAT(check({Shape::kCosine, 10, 10}), invalid("schedule too short: total_steps is 10"));
  EXPECT_THAT(check({Shape::kLinear}), invalid("schedule too short"));
}

}  // namespace
}  // namespace mnemosyne::optim
