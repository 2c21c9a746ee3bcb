// Computes steps: the part of a step's life that happens on the executor's thread.
#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "optim/optimizer.h"
#include "server/session/pending_step.h"

namespace mnemosyne::server {

// Runs complete steps of different sessions of one optimizer, or answers resends, and leaves the
// updates in each session's staging buffer and the statistics in its outcome(). What shares a call
// shares launches; each step has the bits and the status that it would have alone.
//
// Status of a step: FailedPrecondition with reason RESEND_DIFFERS, or those of the gradient policy:
// the state is untouched and the session takes the next step. Internal: the device or the optimizer
// failed; the session must be quarantined.
std::vector<absl::Status> RunSteps(std::span<PendingStep* const> steps, optim::Optimizer& optimizer,
                                   kernels::Backend& backend);

// The same for one.
absl::Status RunStep(PendingStep& step, optim::Optimizer& optimizer, kernels::Backend& backend);

}  // namespace mnemosyne::server
