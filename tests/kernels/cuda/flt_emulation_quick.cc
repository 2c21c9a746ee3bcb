// The emulated quick program, forward.
#include "tests/kernels/cuda/flt_emulation_quick.h"

#include "kernels/cuda/flt_quick_causal.h"
#include "kernels/cuda/flt_quick_keys.h"
#include "kernels/cuda/flt_quick_prepare.h"
#include "kernels/cuda/flt_quick_queries.h"
#include "kernels/cuda/host_lanes.h"
#include "tests/kernels/cuda/flt_emulation_parts.h"

namespace mnemosyne::kernels::cuda::emulated {
namespace {

template <class Sizes>
void AnswerCausalOf(const FltCall& call, FltPartCounts& parts) {
  using Causal = FltQuickSizes<Sizes::kType, 64, 64>;
  using Warp = FltQuickCausal<OneThread, HostLanes, Causal>;
  constexpr FltQuickLayout kAt = FltQuickLayout::OfCausal<Causal>();
  for (uint32_t p = 0; p < call.part_count; ++p) {
    RunQuickly<Warp, Causal::kWarps>(call, p, kAt, [&](const auto& space, auto& team) {
      AnswerCausalQuickly<OneThread, Causal>(space, team,
                                             call.starts + p * size_t{call.shape.SumCount()});
    });
    ++parts.quick;
  }
}

template <class Sizes>
void AnswerAllOf(const FltCall& call, FltPartCounts& parts) {
  using Warp = FltQuickQueries<OneThread, HostLanes, Sizes>;
  constexpr FltQuickLayout kAt = FltQuickLayout::OfQueries<Sizes>();
  for (uint32_t p = 0; p < call.part_count; ++p) {
    RunQuickly<Warp, Sizes::kAnswerWarps>(call, p, kAt, [&](const auto& space, auto& team) {
      AnswerAllQuickly<OneThread, Sizes>(
          space, team, call.starts + call.parts[p].unit * size_t{call.shape.SumCount()});
    });
    ++parts.quick;
  }
}

}  // namespace

void PrepareQuickly(const FltCall& call) {
  WithFltQuick(call, [&](auto sizes) {
    using Preparation = FltPreparation<decltype(sizes)>;
    for (uint32_t side = 0; side < 2 * call.shape.heads; ++side) {
      const Preparation preparation(call, side / 2, side % 2 == 0);
      for (uint32_t i = 0; i < Preparation::kCount; ++i) preparation.Write(i);
    }
  });
}

bool AddKeysQuickly(const FltCall& call, FltPartCounts& parts) {
  return WithFltQuick(call, [&](auto sizes) {
    using Sizes = decltype(sizes);
    using Warp = FltQuickKeys<OneThread, HostLanes, Sizes>;
    constexpr FltQuickLayout kAt = FltQuickLayout::OfKeys<Sizes>();
    for (uint32_t p = 0; p < call.part_count; ++p) {
      if (call.arrays.causal && call.parts[p].is_last) continue;
      RunQuickly<Warp, Sizes::kWarps>(call, p, kAt, [&](const auto& space, auto& team) {
        cuda::AddKeysQuickly<OneThread, Sizes>(space, team,
                                               call.sums + p * size_t{call.shape.SumCount()});
      });
      ++parts.quick;
    }
  });
}

bool AnswerQuickly(const FltCall& call, FltPartCounts& parts) {
  if (call.arrays.causal) {
    return WithFltQuick(call, [&](auto sizes) {
      using Sizes = decltype(sizes);
      if constexpr (Sizes::kFeatures == 64) AnswerCausalOf<Sizes>(call, parts);
    });
  }
  return WithFltQuickAnswer(call, [&](auto sizes) { AnswerAllOf<decltype(sizes)>(call, parts); });
}

}  // namespace mnemosyne::kernels::cuda::emulated
