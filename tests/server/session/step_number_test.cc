#include "server/session/step_number.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

TEST(StepNumberTest, TellsNewStepsFromResends) {
  EXPECT_EQ(*ClassifyStep(1, 0, false, false), StepKind::kApply);
  EXPECT_EQ(*ClassifyStep(8, 7, true, false), StepKind::kApply);
  EXPECT_EQ(*ClassifyStep(7, 7, true, false), StepKind::kReplay);
}

TEST(StepNumberTest, RefusesTheRest) {
  EXPECT_EQ(ErrorReason(ClassifyStep(0, 0, false, false).status()), "INVALID_STEP");
  EXPECT_EQ(ErrorReason(ClassifyStep(-1, 7, true, true).status()), "INVALID_STEP");
  EXPECT_EQ(ErrorReason(ClassifyStep(9, 7, true, false).status()), "STEP_GAP");
  EXPECT_EQ(ErrorReason(ClassifyStep(6, 7, true, false).status()), "STEP_TOO_OLD");
  EXPECT_EQ(ErrorReason(ClassifyStep(7, 7, false, false).status()), "STEP_TOO_OLD");
}

TEST(StepNumberTest, AcceptsLossIfAskedTo) {
  EXPECT_EQ(*ClassifyStep(9, 7, true, true), StepKind::kApply);
  EXPECT_EQ(ErrorReason(ClassifyStep(6, 7, true, true).status()), "STEP_TOO_OLD");
}

}  // namespace
}  // namespace mnemosyne::server
