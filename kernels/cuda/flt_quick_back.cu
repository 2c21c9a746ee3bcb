// The kernels of the backward pass of FLT attention's quick program: a block takes a part of a
// sequence of a head.
#include "kernels/cuda/block_threads.cuh"
#include "kernels/cuda/flt_quick_back_causal.h"
#include "kernels/cuda/flt_quick_keys.h"
#include "kernels/cuda/flt_quick_numbers.h"
#include "kernels/cuda/flt_quick_reader.h"
#include "kernels/cuda/flt_quick_team.cuh"
#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

// Of the kernel that measures rows, whose blocks wait for memory alone.
constexpr unsigned kNumberThreads = 256, kNumberBlocks = 8;  // A part.

extern __shared__ float4 scratch[];

template <class Sizes>
__global__ void __launch_bounds__(kNumberThreads)
    MeasureFltRows(const __grid_constant__ FltBackCall call) {
  const FltPart part = call.forward.parts[blockIdx.x];
  using Numbers = FltQuickNumbers<BlockThreads, WarpLanes, Sizes>;
  const Numbers numbers(call, part);
  constexpr uint32_t kWarps = kNumberThreads / 32;
  for (uint32_t at = (blockIdx.y * kWarps + threadIdx.x / 32) * Numbers::kRows; at < part.count;
       at += gridDim.y * kWarps * Numbers::kRows) {
    numbers.Write(part.first + at, part.count - at);
  }
}

// The sums over the rows that readers read of.
template <class Sizes>
__global__ void __launch_bounds__(32 * Sizes::kWarps, 3)
    AddFltRowsQuickly(const __grid_constant__ FltSide side) {
  const FltPart part = side.call.parts[blockIdx.x];
  const FltQuickSpace space = {side.call, part, FltQuickLayout::OfKeys<Sizes>(),
                               reinterpret_cast<uint32_t*>(scratch)};
  QuickTeamOnDevice<FltQuickKeys<BlockThreads, WarpLanes, Sizes>> team(space);
  AddRowsQuickly<BlockThreads, Sizes>(side, space, team,
                                      side.sums + blockIdx.x * size_t{side.sum_count});
}

template <class Sizes>
__global__ void __launch_bounds__(32 * Sizes::kReaderWarps, 1)
    DifferentiateFltQuickly(const __grid_constant__ FltSide side) {
  const FltPart part = side.call.parts[blockIdx.x];
  const FltSideSpace space = {
      {side.call, part, FltQuickLayout::OfReaders<Sizes>(), reinterpret_cast<uint32_t*>(scratch)},
      side};
  QuickTeamOnDevice<FltQuickReader<BlockThreads, WarpLanes, Sizes>> team(space);
  DifferentiateAllQuickly<BlockThreads, Sizes>(
      space, team, side.starts + part.unit * size_t{side.sum_count},
      side.gradients + blockIdx.x * size_t{side.gradient_count});
}

template <class Sizes>
__global__ void __launch_bounds__(32 * Sizes::kWarps, Sizes::kFull ? 1 : 2)
    DifferentiateFltCausalQuickly(const __grid_constant__ FltSide side) {
  const FltPart part = side.call.parts[blockIdx.x];
  const FltSideSpace space = {{side.call, part, FltQuickLayout::OfBackCausal<Sizes>(),
                               reinterpret_cast<uint32_t*>(scratch)},
                              side};
  QuickTeamOnDevice<FltQuickBackCausal<BlockThreads, WarpLanes, Sizes>> team(space);
  DifferentiateCausalQuickly<BlockThreads, Sizes>(
      space, team, side.starts + blockIdx.x * size_t{side.sum_count},
      side.gradients + blockIdx.x * size_t{side.gradient_count});
}

// A block a part.
template <typename Kernel>
cudaError_t LaunchParts(Kernel kernel, const FltSide& side, int warps, uint32_t words,
                        cudaStream_t stream) {
  const size_t bytes = words * sizeof(uint32_t);
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  kernel<<<side.call.part_count, static_cast<unsigned>(32 * warps), bytes, stream>>>(side);
  return cudaGetLastError();
}

template <FltType kType>
cudaError_t LaunchReaders(const FltSide& side, cudaStream_t stream) {
  using Causal = FltQuickBackSizes<kType, 64>;
  using All = FltQuickBackSizes<kType, 32>;
  if (side.call.arrays.causal) {
    constexpr FltQuickLayout kAt = FltQuickLayout::OfBackCausal<Causal>();
    return LaunchParts(DifferentiateFltCausalQuickly<Causal>, side, Causal::kWarps, kAt.end,
                       stream);
  }
  constexpr FltQuickLayout kAt = FltQuickLayout::OfReaders<All>();
  return LaunchParts(DifferentiateFltQuickly<All>, side, All::kReaderWarps, kAt.end, stream);
}

cudaError_t LaunchSide(const FltSide& side, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  WithFltQuickBack(side.call,
                   [&](auto type) { error = LaunchReaders<decltype(type)::value>(side, stream); });
  return error;
}

}  // namespace

cudaError_t LaunchFltQuickRows(const FltBackCall& call, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  WithFltQuickBack(call.forward, [&](auto type) {
    using Sizes = FltQuickBackSizes<decltype(type)::value, 32>;
    const dim3 blocks(call.forward.part_count, kNumberBlocks);
    MeasureFltRows<Sizes><<<blocks, kNumberThreads, 0, stream>>>(call);
    error = cudaGetLastError();
    if (error != cudaSuccess) return;
    constexpr FltQuickLayout kAt = FltQuickLayout::OfKeys<Sizes>();
    error = LaunchParts(AddFltRowsQuickly<Sizes>, FltSide::OfKeys(call), Sizes::kWarps, kAt.end,
                        stream);
  });
  return error;
}

cudaError_t LaunchFltQuickBackQueries(const FltBackCall& call, cudaStream_t stream) {
  return LaunchSide(FltSide::OfQueries(call), stream);
}

cudaError_t LaunchFltQuickBackKeys(const FltBackCall& call, cudaStream_t stream) {
  return LaunchSide(FltSide::OfKeys(call), stream);
}

}  // namespace mnemosyne::kernels::cuda
