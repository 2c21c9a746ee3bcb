// Computes steps: the part of a step's life that happens on the executor's thread.
#pragma once

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "optim/optimizer.h"
#include "server/session/pending_step.h"

namespace mnemosyne::server {

// Runs a complete step, or answers a resend, and leaves the updates in the session's staging buffer
// and the statistics in step.outcome().
//
// Errors: FailedPrecondition with reason RESEND_DIFFERS, or those of the gradient policy: the state
// is untouched and the session takes the next step. Internal: the device or the optimizer failed;
// the session must be quarantined.
absl::Status RunStep(PendingStep& step, optim::Optimizer& optimizer, kernels::Backend& backend);

}  // namespace mnemosyne::server
