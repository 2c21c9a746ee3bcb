// FLT attention over arrays of the host, on any backend.
#pragma once

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace mnemosyne::kernels {

// As backend.FltAttention, but all arrays of `args` are host memory: they are copied to the
// device, and outputs, state and normalizers back, where the device does not reach them there.
// Returns when the arrays are written; on an error they are left as they were, unless the device
// writes them itself. ResourceExhausted if the device has no room.
absl::Status FltAttentionOfHost(Backend& backend, const FltAttentionArgs& args);

// The same of backend.FltAttentionBackward.
absl::Status FltAttentionBackwardOfHost(Backend& backend, const FltBackwardArgs& args);

}  // namespace mnemosyne::kernels
