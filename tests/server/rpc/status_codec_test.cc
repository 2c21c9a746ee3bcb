#include "server/rpc/status_codec.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "mnemosyne/v1/error.pb.h"

namespace mnemosyne::server {
namespace {

absl::Status Example() {
  return WithMetadata(WithReason(FailedPrecondition("step {} differs", 3), "RESEND_DIFFERS"),
                      "parameter", "weight");
}

TEST(StatusCodecTest, CarriesReasonAndMetadataInTheDetails) {
  const grpc::Status status = ToGrpcStatus(Example());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(), "step 3 differs");
  v1::ErrorStatus details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  v1::ErrorInfo info;
  ASSERT_TRUE(info.ParseFromString(details.details(0).value()));
  EXPECT_EQ(info.reason(), "RESEND_DIFFERS");
  EXPECT_EQ(info.domain(), "mnemosyne");
  EXPECT_EQ(info.metadata().at("parameter"), "weight");
}

TEST(StatusCodecTest, CutsMessagesThatTrailersCannotCarry) {
  EXPECT_LT(ToGrpcStatus(InvalidArgument("{}", std::string(100'000, 'x'))).error_message().size(),
            4096);
}

TEST(StatusCodecTest, MakesAStepError) {
  const v1::StepError error = ToStepError(3, Example());
  EXPECT_EQ(error.step(), 3);
  EXPECT_EQ(error.code(), static_cast<int>(grpc::StatusCode::FAILED_PRECONDITION));
  EXPECT_EQ(error.reason(), "RESEND_DIFFERS");
}

TEST(StatusCodecTest, OkIsOk) { EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok()); }

}  // namespace
}  // namespace mnemosyne::server
