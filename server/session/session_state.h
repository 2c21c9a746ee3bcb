// What a session keeps between steps.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/buffer.h"
#include "optim/optimizer.h"
#include "optim/step_plan.h"
#include "server/session/parked_tensors.h"
#include "server/session/session_spec.h"
#include "server/session/step_request.h"
#include "server/store/step_log.h"

namespace mnemosyne::server {

// What is needed to answer the last step once more.
struct LastStep {
  optim::StepPlan plan;
  std::vector<uint64_t> fingerprints;  // [cells of the grid]; 0 for cells of absent parameters.
  StepOutcome outcome;
  bool zero_non_finite = false;
};

// Only the holder of the session's turn touches it. The staging buffer holds gradients in the
// layout's arena until the step is computed, and updates after it; on a device with memory of its
// own, `values` is the copy there. Of a parked session the optimizer's tensors are in `parked`, and
// there are neither `optimizer` nor buffers.
struct SessionState {
  std::unique_ptr<optim::OptimizerState> optimizer;
  std::unique_ptr<ParkedTensors> parked;
  int64_t last_step = 0;
  std::vector<int64_t> clocks;   // [parameters]: steps that each took part in.
  std::optional<LastStep> last;  // Nothing before the first step and after an import.
  kernels::Buffer staging;       // [arena_size] floats on the host.
  kernels::Buffer values;        // The same on the device; empty if the device uses `staging`.

  // Where steps are logged before they are taken, if they are; and the rules that it knows.
  std::shared_ptr<StepLog> log;
  std::shared_ptr<const StepRules> logged_rules;
};

}  // namespace mnemosyne::server
