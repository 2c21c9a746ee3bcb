// From gRPC's statuses to ours.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "mnemosyne/v1/optimize_stream.pb.h"

namespace mnemosyne {

// The status with the reason and the metadata of its ErrorInfo, if it carries one.
absl::Status FromGrpc(const grpc::Status& status);

// The same of an error within a stream.
absl::Status FromStepError(const v1::StepError& error);

// Whether the daemon itself spoke, and not a broken connection.
bool HasReason(const absl::Status& status);

// Whether the same call may succeed a little later: the connection broke, the daemon is away,
// drains, has a full queue, or gave up a step that came too slowly.
bool IsTransient(const absl::Status& status);

}  // namespace mnemosyne
