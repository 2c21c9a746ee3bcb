// The emulated programs of a team of warps.
#include "kernels/cuda/flt_team_part.h"
#include "kernels/cuda/host_lanes.h"
#include "tests/kernels/cuda/flt_emulation_parts.h"
#include "tests/kernels/cuda/one_thread.h"

namespace mnemosyne::kernels::cuda::emulated {
namespace {

// Runs run(space, team, p) for the parts of a call.
template <FltTask kTask, typename Run>
bool ForEachTeam(const FltCall& call, FltPartCounts& parts, const Run& run) {
  return WithFltTeam<kTask>(call, [&](auto sizes) {
    using Sizes = decltype(sizes);
    const FltTeamLayout at = FltTeamLayout::Of<Sizes>(call.shape, kTask);
    for (uint32_t p = 0; p < call.part_count; ++p) {
      if (kTask == FltTask::kAddKeys && call.arrays.causal && call.parts[p].is_last) continue;
      EmulatedMemory memory(at.end);
      const FltTeamSpace<Sizes> space = {call, call.parts[p], at, memory.data()};
      EmulatedTeam<FltTeamWarp<OneThread, HostLanes, Sizes>> team(space, Sizes::kWarps);
      run(space, team, p);
      ++parts.team;
    }
  });
}

}  // namespace

bool AddKeysByTeams(const FltCall& call, FltPartCounts& parts) {
  return ForEachTeam<FltTask::kAddKeys>(
      call, parts, [&](const auto& space, auto& team, uint32_t p) {
        AddKeysByTeam<OneThread>(space, team, call.sums + p * size_t{call.shape.SumCount()},
                                 !call.arrays.causal);
      });
}

bool AnswerByTeams(const FltCall& call, FltPartCounts& parts) {
  const size_t count = call.shape.SumCount();
  if (call.arrays.causal) {
    return ForEachTeam<FltTask::kAnswerCausal>(
        call, parts, [&](const auto& space, auto& team, uint32_t p) {
          AnswerCausalByTeam<OneThread>(space, team, call.starts + p * count);
        });
  }
  return ForEachTeam<FltTask::kAnswerAll>(
      call, parts, [&](const auto& space, auto& team, uint32_t p) {
        AnswerAllByTeam<OneThread>(space, team, call.starts + call.parts[p].unit * count);
      });
}

}  // namespace mnemosyne::kernels::cuda::emulated
