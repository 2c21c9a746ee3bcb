// The kernels of the quick program of FLT attention: a block takes a part of a sequence of a head.
#include "kernels/cuda/block_threads.cuh"
#include "kernels/cuda/flt_quick_causal.h"
#include "kernels/cuda/flt_quick_keys.h"
#include "kernels/cuda/flt_quick_prepare.h"
#include "kernels/cuda/flt_quick_queries.h"
#include "kernels/cuda/flt_quick_team.cuh"
#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

constexpr unsigned kPrepareThreads = 256;

extern __shared__ float4 scratch[];

template <class Sizes>
__global__ void __launch_bounds__(32 * Sizes::kWarps, Sizes::kWarps == 4 ? 3 : 1)
    AddFltKeysQuickly(const __grid_constant__ FltCall call) {
  LetOthersStart();
  const FltPart part = call.parts[blockIdx.x];
  if (call.arrays.causal && part.is_last) return;
  const FltQuickSpace space = {call, part, FltQuickLayout::OfKeys<Sizes>(),
                               reinterpret_cast<uint32_t*>(scratch)};
  QuickTeamOnDevice<FltQuickKeys<BlockThreads, WarpLanes, Sizes>> team(space);
  AddKeysQuickly<BlockThreads, Sizes>(
      space, team, call.sums + blockIdx.x * static_cast<size_t>(call.shape.SumCount()));
}

template <class Sizes>
__global__ void __launch_bounds__(32 * Sizes::kAnswerWarps, Sizes::kFull ? 2 : 3)
    AnswerFltQuickly(const __grid_constant__ FltCall call) {
  const FltPart part = call.parts[blockIdx.x];
  const FltQuickSpace space = {call, part, FltQuickLayout::OfQueries<Sizes>(),
                               reinterpret_cast<uint32_t*>(scratch)};
  QuickTeamOnDevice<FltQuickQueries<BlockThreads, WarpLanes, Sizes>> team(space);
  AnswerAllQuickly<EarlyThreads, Sizes>(
      space, team, call.starts + part.unit * static_cast<size_t>(call.shape.SumCount()));
}

template <class Sizes>
__global__ void __launch_bounds__(32 * Sizes::kWarps, Sizes::kFull ? 1 : 2)
    AnswerFltCausalQuickly(const __grid_constant__ FltCall call) {
  const FltPart part = call.parts[blockIdx.x];
  const FltQuickSpace space = {call, part, FltQuickLayout::OfCausal<Sizes>(),
                               reinterpret_cast<uint32_t*>(scratch)};
  QuickTeamOnDevice<FltQuickCausal<BlockThreads, WarpLanes, Sizes>> team(space);
  AnswerCausalQuickly<BlockThreads, Sizes>(
      space, team, call.starts + blockIdx.x * static_cast<size_t>(call.shape.SumCount()));
}

template <class Sizes>
__global__ void __launch_bounds__(kPrepareThreads)
    PrepareFlt(const __grid_constant__ FltCall call) {
  const uint32_t i = blockIdx.x * kPrepareThreads + threadIdx.x;
  if (i >= FltPreparation<Sizes>::kCount) return;
  FltPreparation<Sizes>(call, blockIdx.y / 2, blockIdx.y % 2 == 0).Write(i);
}

// A block a part.
template <typename Kernel>
cudaError_t LaunchParts(Kernel kernel, const FltCall& call, int warps, uint32_t words,
                        cudaStream_t stream) {
  const size_t bytes = words * sizeof(uint32_t);
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  kernel<<<call.part_count, static_cast<unsigned>(32 * warps), bytes, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchFltPreparation(const FltCall& call, cudaStream_t stream) {
  WithFltQuick(call, [&](auto sizes) {
    using Sizes = decltype(sizes);
    const dim3 grid((FltPreparation<Sizes>::kCount + kPrepareThreads - 1) / kPrepareThreads,
                    2 * call.shape.heads);
    PrepareFlt<Sizes><<<grid, kPrepareThreads, 0, stream>>>(call);
  });
  return cudaGetLastError();
}

bool LaunchFltQuickKeys(const FltCall& call, cudaStream_t stream, cudaError_t* error) {
  if (LaunchFltGroupKeys(call, stream, error)) return true;
  return WithFltQuick(call, [&](auto sizes) {
    using Sizes = decltype(sizes);
    constexpr FltQuickLayout kAt = FltQuickLayout::OfKeys<Sizes>();
    *error = LaunchParts(AddFltKeysQuickly<Sizes>, call, Sizes::kWarps, kAt.end, stream);
  });
}

bool LaunchFltQuickAnswer(const FltCall& call, cudaStream_t stream, cudaError_t* error) {
  if (LaunchFltGroupAnswer(call, stream, error)) return true;
  if (!call.arrays.causal) {
    return WithFltQuickAnswer(call, [&](auto sizes) {
      using Sizes = decltype(sizes);
      constexpr FltQuickLayout kAt = FltQuickLayout::OfQueries<Sizes>();
      const size_t bytes = kAt.end * sizeof(uint32_t);
      *error =
          cudaFuncSetAttribute(AnswerFltQuickly<Sizes>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes));
      if (*error != cudaSuccess) return;
      *error = LaunchAhead(AnswerFltQuickly<Sizes>, call.part_count, 32 * Sizes::kAnswerWarps,
                           bytes, stream, call);
    });
  }
  return WithFltQuick(call, [&](auto sizes) {
    using Sizes = decltype(sizes);
    if constexpr (Sizes::kFeatures == 64) {
      using Causal = FltQuickSizes<Sizes::kType, 64, 64>;
      constexpr FltQuickLayout kAt = FltQuickLayout::OfCausal<Causal>();
      *error = LaunchParts(AnswerFltCausalQuickly<Causal>, call, Causal::kWarps, kAt.end, stream);
    }
  });
}

}  // namespace mnemosyne::kernels::cuda
