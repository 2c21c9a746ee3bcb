// How an emulated program of warps that hold their share of a part in registers runs.
#pragma once

#include <cstdint>

#include "kernels/cuda/flt_quick_layout.h"
#include "kernels/cuda/flt_quick_rows.h"
#include "tests/kernels/cuda/one_thread.h"

namespace mnemosyne::kernels::cuda::emulated {

// Runs run(space, team) for part `p` of a call.
template <class Warp, uint32_t kWarps, typename Run>
void RunQuickly(const FltCall& call, uint32_t p, const FltQuickLayout& at, const Run& run) {
  EmulatedMemory memory(at.end);
  const FltQuickSpace space = {call, call.parts[p], at, memory.data()};
  EmulatedTeam<Warp> team(space, kWarps);
  run(space, team);
}

}  // namespace mnemosyne::kernels::cuda::emulated
