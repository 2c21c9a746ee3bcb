#include "server/rpc/status_codec.h"

#include <google/protobuf/duration.pb.h>

#include <string>

#include "base/error.h"
#include "mnemosyne/v1/error.pb.h"

namespace mnemosyne::server {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr char kDomain[] = "mnemosyne";

// Trailers share HTTP/2's bound on metadata: a longer message is cut.
constexpr size_t kMessageBytesMax = 2048;

std::string Message(const absl::Status& status) {
  return std::string(ErrorMessage(status).substr(0, kMessageBytesMax));
}

// Tells when to try again, where the status does, in the form that generic clients know.
void AddRetryInfo(const v1::ErrorInfo& info, v1::ErrorStatus& details) {
  const auto found = info.metadata().find("retry_after_ms");
  if (found == info.metadata().end()) return;
  const int64_t milliseconds = std::stoll(found->second);
  google::protobuf::Duration delay;
  delay.set_seconds(milliseconds / 1000);
  delay.set_nanos(static_cast<int32_t>(milliseconds % 1000) * 1'000'000);
  v1::RetryInfo retry;
  *retry.mutable_retry_delay() = delay;
  google::protobuf::Any& any = *details.add_details();
  any.set_type_url(kRetryInfoUrl);
  any.set_value(retry.SerializeAsString());
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  v1::ErrorInfo info;
  info.set_reason(ErrorReason(status));
  info.set_domain(kDomain);
  for (const auto& [key, value] : ErrorMetadata(status)) (*info.mutable_metadata())[key] = value;

  v1::ErrorStatus details;
  details.set_code(static_cast<int32_t>(status.code()));
  details.set_message(Message(status));
  google::protobuf::Any& any = *details.add_details();
  any.set_type_url(kErrorInfoUrl);
  any.set_value(info.SerializeAsString());
  AddRetryInfo(info, details);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), Message(status),
                      details.SerializeAsString());
}

v1::StepError ToStepError(int64_t step, const absl::Status& status) {
  v1::StepError error;
  error.set_step(step);
  error.set_code(static_cast<int32_t>(status.code()));
  error.set_reason(ErrorReason(status));
  error.set_message(Message(status));
  for (const auto& [key, value] : ErrorMetadata(status)) (*error.mutable_metadata())[key] = value;
  return error;
}

}  // namespace mnemosyne::server
