// absl::Status as it travels: the only place that turns one into the other.
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>

#include "absl/status/status.h"
#include "mnemosyne/v1/optimize_stream.pb.h"

namespace mnemosyne::server {

// A status for the end of a call, with an ErrorInfo in its details.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The refusal of a step inside a stream.
v1::StepError ToStepError(int64_t step, const absl::Status& status);

}  // namespace mnemosyne::server
