// The emulated program of groups of four warps.
#include <type_traits>

#include "kernels/cuda/flt_group_causal.h"
#include "kernels/cuda/flt_group_keys.h"
#include "kernels/cuda/flt_group_queries.h"
#include "kernels/cuda/host_lanes.h"
#include "tests/kernels/cuda/flt_emulation_parts.h"
#include "tests/kernels/cuda/flt_emulation_quick.h"

namespace mnemosyne::kernels::cuda::emulated {
namespace {

// Parts count as the quick program's, too: what groups do not take, it does.
void Count(FltPartCounts& parts) {
  ++parts.quick;
  ++parts.group;
}

}  // namespace

bool AddKeysInGroups(const FltCall& call, FltPartCounts& parts) {
  return WithFltGroup(call, [&](auto sizes) {
    using Sizes = decltype(sizes);
    using Warp = FltGroupKeys<OneThread, HostLanes, Sizes>;
    constexpr FltQuickLayout kAt = FltQuickLayout::OfGroupKeys<Sizes>();
    for (uint32_t p = 0; p < call.part_count; ++p) {
      if (call.arrays.causal && call.parts[p].is_last) continue;
      RunQuickly<Warp, Sizes::kWarps>(call, p, kAt, [&](const auto& space, auto& team) {
        AddKeysInGroup<OneThread, HostLanes, Sizes>(space, team,
                                                    call.sums + p * size_t{call.shape.SumCount()});
      });
      Count(parts);
    }
  });
}

bool AnswerInGroups(const FltCall& call, FltPartCounts& parts) {
  const auto run = [&](auto warp, const FltQuickLayout& at, const auto& answer) {
    using Warp = typename decltype(warp)::type;
    for (uint32_t p = 0; p < call.part_count; ++p) {
      RunQuickly<Warp, 4>(call, p, at,
                          [&](const auto& space, auto& team) { answer(space, team, p); });
      Count(parts);
    }
  };
  const size_t count = call.shape.SumCount();
  if (call.arrays.causal) {
    return WithFltGroup(call, [&](auto) {
      using Sizes = FltGroupSizes<FltType::kBFloat16>;  // The only ones.
      run(std::type_identity<FltGroupCausal<OneThread, HostLanes, Sizes>>(),
          FltQuickLayout::OfGroupCausal<Sizes>(), [&](const auto& space, auto& team, uint32_t p) {
            AnswerCausalInGroup<OneThread, HostLanes, Sizes>(space, team, call.starts + p * count);
          });
    });
  }
  return WithFltGroup(call, [&](auto sizes) {
    using Sizes = decltype(sizes);
    run(std::type_identity<FltGroupQueries<OneThread, HostLanes, Sizes>>(),
        FltQuickLayout::OfGroupQueries<Sizes>(), [&](const auto& space, auto& team, uint32_t p) {
          AnswerAllInGroup<OneThread, HostLanes, Sizes>(space, team,
                                                        call.starts + call.parts[p].unit * count);
        });
  });
}

}  // namespace mnemosyne::kernels::cuda::emulated
