// The emulated quick program's backward pass.
#include "kernels/cuda/flt_quick_back_causal.h"
#include "kernels/cuda/flt_quick_keys.h"
#include "kernels/cuda/flt_quick_numbers.h"
#include "kernels/cuda/flt_quick_reader.h"
#include "kernels/cuda/host_lanes.h"
#include "tests/kernels/cuda/flt_emulation_parts.h"
#include "tests/kernels/cuda/flt_emulation_quick.h"

namespace mnemosyne::kernels::cuda::emulated {
namespace {

template <class Warp, uint32_t kWarps, typename Run>
void RunReaders(const FltSide& side, const FltQuickLayout& at, FltPartCounts& parts,
                const Run& run) {
  for (uint32_t p = 0; p < side.call.part_count; ++p) {
    EmulatedMemory memory(at.end);
    const FltSideSpace space = {{side.call, side.call.parts[p], at, memory.data()}, side};
    EmulatedTeam<Warp> team(space, kWarps);
    run(space, team, p);
    ++parts.quick_back;
  }
}

template <FltType kType>
void DifferentiateCausalOf(const FltSide& side, FltPartCounts& parts) {
  using Sizes = FltQuickBackSizes<kType, 64>;
  using Warp = FltQuickBackCausal<OneThread, HostLanes, Sizes>;
  constexpr FltQuickLayout kAt = FltQuickLayout::OfBackCausal<Sizes>();
  RunReaders<Warp, Sizes::kWarps>(side, kAt, parts, [&](const auto& space, auto& team, uint32_t p) {
    DifferentiateCausalQuickly<OneThread, Sizes>(space, team,
                                                 side.starts + p * size_t{side.sum_count},
                                                 side.gradients + p * size_t{side.gradient_count});
  });
}

template <FltType kType>
void DifferentiateAllOf(const FltSide& side, FltPartCounts& parts) {
  using Sizes = FltQuickBackSizes<kType, 32>;
  using Warp = FltQuickReader<OneThread, HostLanes, Sizes>;
  constexpr FltQuickLayout kAt = FltQuickLayout::OfReaders<Sizes>();
  RunReaders<Warp, Sizes::kReaderWarps>(
      side, kAt, parts, [&](const auto& space, auto& team, uint32_t p) {
        DifferentiateAllQuickly<OneThread, Sizes>(
            space, team, side.starts + side.call.parts[p].unit * size_t{side.sum_count},
            side.gradients + p * size_t{side.gradient_count});
      });
}

void Differentiate(const FltSide& side, FltPartCounts& parts) {
  WithFltQuickBack(side.call, [&](auto type) {
    constexpr FltType kType = decltype(type)::value;
    if (side.call.arrays.causal) {
      DifferentiateCausalOf<kType>(side, parts);
    } else {
      DifferentiateAllOf<kType>(side, parts);
    }
  });
}

}  // namespace

void AddQueriesQuickly(const FltBackCall& call, FltPartCounts& parts) {
  WithFltQuickBack(call.forward, [&](auto type) {
    using Sizes = FltQuickBackSizes<decltype(type)::value, 32>;
    using Numbers = FltQuickNumbers<OneThread, HostLanes, Sizes>;
    for (uint32_t p = 0; p < call.forward.part_count; ++p) {
      const FltPart& part = call.forward.parts[p];
      for (uint32_t at = 0; at < part.count; at += Numbers::kRows) {
        Numbers(call, part).Write(part.first + at, part.count - at);
      }
    }
    const FltSide side = FltSide::OfKeys(call);
    constexpr FltQuickLayout kAt = FltQuickLayout::OfKeys<Sizes>();
    using Warp = FltQuickKeys<OneThread, HostLanes, Sizes>;
    for (uint32_t p = 0; p < call.forward.part_count; ++p) {
      RunQuickly<Warp, Sizes::kWarps>(side.call, p, kAt, [&](const auto& space, auto& team) {
        AddRowsQuickly<OneThread, Sizes>(side, space, team, side.sums + p * size_t{side.sum_count});
      });
      ++parts.quick;
    }
  });
}

void DifferentiateQueriesQuickly(const FltBackCall& call, FltPartCounts& parts) {
  Differentiate(FltSide::OfQueries(call), parts);
}

void DifferentiateKeysQuickly(const FltBackCall& call, FltPartCounts& parts) {
  Differentiate(FltSide::OfKeys(call), parts);
}

}  // namespace mnemosyne::kernels::cuda::emulated
