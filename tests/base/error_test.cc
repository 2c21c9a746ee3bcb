#include "base/error.h"

#include "base/status_macros.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::IsError;
using ::testing::Pair;

TEST(ErrorTest, FormatsItsMessage) {
  EXPECT_THAT(InvalidArgument("wrong size: {} has {} elements, expected {}", "values", 11, 12),
              IsError(absl::StatusCode::kInvalidArgument,
                      "wrong size: values has 11 elements, expected 12"));
}

TEST(ErrorTest, HasTheCodeOfItsName) {
  EXPECT_TRUE(absl::IsFailedPrecondition(FailedPrecondition("x")));
  EXPECT_TRUE(absl::IsNotFound(NotFound("x")));
  EXPECT_TRUE(absl::IsResourceExhausted(ResourceExhausted("x")));
  EXPECT_TRUE(absl::IsDataLoss(DataLoss("x")));
  EXPECT_TRUE(absl::IsInternal(Internal("x")));
  EXPECT_TRUE(absl::IsUnavailable(Unavailable("x")));
}

TEST(ErrorTest, CarriesAReason) {
  const absl::Status status = WithReason(NotFound("no such session"), "UNKNOWN_SESSION");

  EXPECT_EQ(ErrorReason(status), "UNKNOWN_SESSION");
  EXPECT_EQ(ErrorMessage(status), "no such session");
  EXPECT_TRUE(absl::IsNotFound(status));
}

TEST(ErrorTest, KeepsWhatItCarriesWhenItGetsMoreWords) {
  const absl::Status status =
      WithMoreWords(WithMetadata(WithReason(NotFound("gone"), "LOST"), "step", "7"), "; for good");

  EXPECT_THAT(status, IsError(absl::StatusCode::kNotFound, "gone; for good"));
  EXPECT_EQ(ErrorReason(status), "LOST");
  EXPECT_THAT(ErrorMetadata(status), ElementsAre(Pair("step", "7")));
}

TEST(ErrorTest, HasTheNameOfItsCodeForAReasonOtherwise) {
  EXPECT_EQ(ErrorReason(NotFound("x")), "NOT_FOUND");
}

TEST(ErrorTest, CarriesTheValuesBehindItsMessage) {
  const absl::Status status =
      WithReason(WithMetadata(WithMetadata(Internal("x"), "step", "7"), "expected", "6"), "GAP");

  EXPECT_THAT(ErrorMetadata(status), ElementsAre(Pair("expected", "6"), Pair("step", "7")));
  EXPECT_THAT(ErrorMetadata(Internal("x")), IsEmpty());
}

TEST(ErrorTest, TakesTheLastValueOfAKey) {
  const absl::Status status = WithMetadata(WithMetadata(Internal("x"), "step", "7"), "step", "8");
  EXPECT_THAT(ErrorMetadata(status), ElementsAre(Pair("step", "8")));
}

absl::StatusOr<int> Half(int number) {
  if (number % 2 != 0) return InvalidArgument("odd: {}", number);
  return number / 2;
}

absl::StatusOr<int> Quarter(int number) {
  MNEMO_ASSIGN_OR_RETURN(const int half, Half(number));
  MNEMO_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

absl::Status CheckQuarter(int number) {
  MNEMO_RETURN_IF_ERROR(Quarter(number).status());
  return absl::OkStatus();
}

TEST(StatusMacrosTest, PassErrorsOn) {
  EXPECT_EQ(Quarter(12).value(), 3);
  EXPECT_THAT(Quarter(6), IsError(absl::StatusCode::kInvalidArgument, "odd: 3"));
  EXPECT_OK(CheckQuarter(12));
  EXPECT_THAT(CheckQuarter(7), IsError(absl::StatusCode::kInvalidArgument, "odd: 7"));
}

}  // namespace
}  // namespace mnemosyne
