// Which of the hot loops this machine can run.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu/kernel_table.h"

namespace mnemosyne::kernels::cpu {

// The sets of loops that this build has and this machine can run, slowest first; never empty.
std::vector<const KernelTable*> SupportedKernels();

// The loops called `name`, or with `auto` the fastest. InvalidArgument for a name that is unknown,
// FailedPrecondition for one that this machine cannot run.
absl::StatusOr<const KernelTable*> FindKernels(std::string_view name);

}  // namespace mnemosyne::kernels::cpu
