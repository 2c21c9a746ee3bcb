// The numbering of steps: which number is new, which is a resend, which is refused.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace mnemosyne::server {

enum class StepKind {
  kApply,   // The step after the last one.
  kReplay,  // The last one again: answered with the same bits, not applied.
};

// Says what `step` is to a session whose last step is `last_step` (0 before the first).
// `replayable` is whether the last step can be answered again; `accepts_loss` lets a gap pass.
//
// Errors: InvalidArgument (INVALID_STEP) below 1, OutOfRange (STEP_GAP, with `expected_step`) after
// a gap, AlreadyExists (STEP_TOO_OLD, with `last_step`) for what cannot be answered any more.
absl::StatusOr<StepKind> ClassifyStep(int64_t step, int64_t last_step, bool replayable,
                                      bool accepts_loss);

}  // namespace mnemosyne::server
