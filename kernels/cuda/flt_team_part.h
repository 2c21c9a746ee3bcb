// What a team of warps does with a part: the order of its steps, with a barrier after each.
//
// Written over the threads of `T`, see flt_block.h, and over `Team`: team.Each(f) calls f(warp) for
// all warps and returns when all have returned; team.warp() is any of them.
#pragma once

#include <stdint.h>

#include "kernels/cuda/flt_team.h"

namespace mnemosyne::kernels::cuda {

// The sums over the part's keys; faults are counted if `count`.
template <class T, class Team, class Sizes>
MNEMOSYNE_DEVICE void AddKeysByTeam(const FltTeamSpace<Sizes>& space, Team& team, float* sums,
                                    bool count) {
  StageFltWeights<T>(space);
  team.Each([&](auto& warp) { warp.Clear(); });
  const FltPart& part = space.part;
  for (uint32_t at = 0; at < part.count; at += Sizes::kRows) {
    const uint32_t first = part.first + at, rest = part.count - at;
    const uint32_t rows = rest < Sizes::kRows ? rest : Sizes::kRows;
    StageFltValues<T>(space, first, rows, count);
    team.Each([&](auto& warp) { warp.StageKeys(first, rows, count); });
    team.Each([&](auto& warp) {
      warp.MeasureKeys();
      warp.Raise(0, rows);
      warp.Add(0, rows);
    });
  }
  team.Each([&](auto& warp) { warp.StoreSums(sums); });
}

// Answers the part's queries from `sums`.
template <class T, class Team, class Sizes>
MNEMOSYNE_DEVICE void AnswerAllByTeam(const FltTeamSpace<Sizes>& space, Team& team,
                                      const float* sums) {
  StageFltWeights<T>(space);
  StageFltSums<T>(space, sums, /*n=*/true);
  const FltPart& part = space.part;
  for (uint32_t at = 0; at < part.count; at += Sizes::kRows) {
    const uint32_t first = part.first + at, rest = part.count - at;
    const uint32_t rows = rest < Sizes::kRows ? rest : Sizes::kRows;
    team.Each([&](auto& warp) { warp.StageQueries(first, rows); });
    team.Each([&](auto& warp) { warp.Answer(first, 0, rows, /*causal=*/false); });
  }
}

// Answers each query from `sums` and the keys up to it, and adds the keys to `sums`.
template <class T, class Team, class Sizes>
MNEMOSYNE_DEVICE void AnswerCausalByTeam(const FltTeamSpace<Sizes>& space, Team& team,
                                         float* sums) {
  StageFltWeights<T>(space);
  StageFltSums<T>(space, sums, /*n=*/false);
  team.Each([&](auto& warp) { warp.LoadSums(sums); });
  const FltPart& part = space.part;
  for (uint32_t at = 0; at < part.count; at += Sizes::kRows) {
    const uint32_t first = part.first + at, rest = part.count - at;
    const uint32_t rows = rest < Sizes::kRows ? rest : Sizes::kRows;
    StageFltValues<T>(space, first, rows, /*count=*/true);
    team.Each([&](auto& warp) { warp.StageKeys(first, rows, /*count=*/true); });
    team.Each([&](auto& warp) { warp.MeasureKeys(); });
    team.Each([&](auto& warp) { warp.StageQueries(first, rows); });
    for (uint32_t begin = 0; begin < rows;) {
      team.Each([&](auto& warp) { warp.FindEnd(begin, rows); });
      const uint32_t end = team.warp().End();
      team.Each([&](auto& warp) {
        warp.Raise(begin, end);
        warp.Publish(begin, end);
        warp.Add(begin, end);
      });
      team.Each([&](auto& warp) { warp.Answer(first, begin, end, /*causal=*/true); });
      begin = end;
    }
  }
  if (part.is_last && space.call.arrays.state != nullptr) {
    team.Each([&](auto& warp) { warp.StoreSums(sums); });
  }
}

}  // namespace mnemosyne::kernels::cuda
