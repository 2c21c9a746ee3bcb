#include "client/cpp/rpc_status.h"

#include <string>
#include <string_view>

#include "base/error.h"
#include "mnemosyne/v1/error.pb.h"

namespace mnemosyne {
namespace {

template <typename Info>
absl::Status WithDetails(absl::Status status, const Info& info) {
  if (!info.reason().empty()) status = WithReason(std::move(status), info.reason());
  for (const auto& [key, value] : info.metadata()) {
    status = WithMetadata(std::move(status), key, value);
  }
  return status;
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  auto result =
      MakeError(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  v1::ErrorStatus details;
  if (!details.ParseFromString(status.error_details())) return result;
  for (const auto& detail : details.details()) {
    const std::string_view url = detail.type_url();
    v1::ErrorInfo info;
    if (url.ends_with("/google.rpc.ErrorInfo") && info.ParseFromString(detail.value())) {
      return WithDetails(std::move(result), info);
    }
  }
  return result;
}

absl::Status FromStepError(const v1::StepError& error) {
  const auto code =
      error.code() == 0 ? absl::StatusCode::kUnknown : static_cast<absl::StatusCode>(error.code());
  return WithDetails(MakeError(code, error.message()), error);
}

bool HasReason(const absl::Status& status) {
  return ErrorReason(status) != std::string_view(absl::StatusCodeToString(status.code()));
}

bool IsTransient(const absl::Status& status) {
  const std::string reason = ErrorReason(status);
  if (reason == "QUEUE_FULL" || reason == "RATE_LIMITED" || reason == "SHUTTING_DOWN" ||
      reason == "STEP_TIMEOUT")
    return true;
  if (reason == "NOT_SERVING") return false;
  if (status.code() == absl::StatusCode::kUnavailable) return true;
  // What gRPC makes of a connection that was reset, by the phase that the call was in.
  const bool broken = status.code() == absl::StatusCode::kCancelled ||
                      status.code() == absl::StatusCode::kUnknown ||
                      status.code() == absl::StatusCode::kInternal;
  return broken && !HasReason(status);
}

}  // namespace mnemosyne
