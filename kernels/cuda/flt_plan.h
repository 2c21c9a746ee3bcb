// How a call of FLT attention is cut: sequences of heads into parts, one for each block of threads,
// and these into launches whose sums fit a workspace. By the shape alone, so that bits do not
// depend on the device.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/cuda/flt_tables.h"
#include "kernels/flt/flt_attention.h"

namespace mnemosyne::kernels::cuda {

// Parts and units of one launch; indices are those within it.
struct FltLaunchPlan {
  std::vector<FltPart> parts;
  std::vector<FltUnit> units;
};

// Sequences without rows are left out. The workspace of a launch, of which a part needs twice
// `floats`, is at most some 512 MB, or one part's.
// `at_once` parts of a multiprocessor run at a time.
std::vector<FltLaunchPlan> PlanFlt(const FltSizes& sizes, const FltRows& rows, size_t floats,
                                   size_t at_once);

}  // namespace mnemosyne::kernels::cuda
