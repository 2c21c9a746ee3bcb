// The guard's trip wire: steps back to Adam while the loss is far above its best. Its cap on
// updates is in the op. metatrain's guard.py is the specification.
//
// With the mean log loss over the last few steps m and the least mean over some thirty steps b, it
// trips when m - b > margin or a loss is not finite. While it is tripped, and until m - b <
// release, the update is Adam's at a share of the step size; then it fades back. A loss that is not
// told cannot trip it.
#pragma once

#include "optim/mnemosyne/loss_trace.h"

namespace mnemosyne::optim {

struct GuardSettings {
  double gate = 1;  // 0 turns it off.
  double margin = 0;
  double release = 0;
  double recovery = 0;  // Share of the level that is left a step later.
};

// Part of the state; plain numbers, all 0 at the start.
struct Guard {
  double level = 0;   // Share of Adam in the update, in [0, 1].
  double told = 0;    // 1 once there is a best.
  double best = 0;    // Least mean log loss so far.
  double trips = 0;   // How often the wire was crossed.
  double capped = 0;  // How many chunks' updates were capped, over all steps.

  // Takes in the loss of a step, which `trace` already holds.
  void Watch(const LossTrace& trace, const ToldInputs& inputs, const GuardSettings& settings);
};

}  // namespace mnemosyne::optim
