#include "server/session/step_number.h"

#include <string>

#include "base/error.h"

namespace mnemosyne::server {

absl::StatusOr<StepKind> ClassifyStep(int64_t step, int64_t last_step, bool replayable,
                                      bool accepts_loss) {
  if (step < 1) {
    return WithReason(InvalidArgument("step {} is not a number of a step; the first is 1", step),
                      "INVALID_STEP");
  }
  if (step == last_step + 1) return StepKind::kApply;
  if (step > last_step) {
    if (accepts_loss) return StepKind::kApply;
    return WithMetadata(
        WithReason(MakeError(absl::StatusCode::kOutOfRange,
                             fmt::format("step {} leaves a gap: the last applied step is {}, send "
                                         "step {} next",
                                         step, last_step, last_step + 1)),
                   "STEP_GAP"),
        "expected_step", std::to_string(last_step + 1));
  }
  if (step == last_step && replayable) return StepKind::kReplay;
  return WithMetadata(
      WithReason(MakeError(absl::StatusCode::kAlreadyExists,
                           fmt::format("step {} was applied and its answer is no longer kept: the "
                                       "last applied step is {}, send step {} next",
                                       step, last_step, last_step + 1)),
                 "STEP_TOO_OLD"),
      "last_step", std::to_string(last_step));
}

}  // namespace mnemosyne::server
