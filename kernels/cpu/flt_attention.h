// FLT attention on the CPU: see flt/flt_attention.h.
#pragma once

#include "absl/status/status.h"
#include "kernels/cpu/block_runner.h"
#include "kernels/cpu/flt_table.h"
#include "kernels/flt/flt_attention.h"

namespace mnemosyne::kernels::cpu {

// Units of work are sequences of one head, and parts of long ones; how they are cut depends on the
// shape alone. Workspace is some 100 KB a thread, and sums for at most 512 parts. Arguments are
// checked.
absl::Status FltForward(const FltTable& loops, BlockRunner& runner, const FltAttentionArgs& args);
absl::Status FltBackward(const FltTable& loops, BlockRunner& runner, const FltBackwardArgs& args);

}  // namespace mnemosyne::kernels::cpu
