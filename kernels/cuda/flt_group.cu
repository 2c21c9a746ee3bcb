// The kernels of FLT attention by groups of warps: a block is a group, and takes a part of a
// sequence of a head. For devices with wgmma.
#include <atomic>

#include "kernels/cuda/block_threads.cuh"
#include "kernels/cuda/flt_group_causal.h"
#include "kernels/cuda/flt_group_keys.h"
#include "kernels/cuda/flt_group_lanes.cuh"
#include "kernels/cuda/flt_group_queries.h"
#include "kernels/cuda/flt_quick_team.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

constexpr unsigned kGroupThreads = 128;

// Blocks of a multiprocessor, which their memory allows.
template <class Sizes>
constexpr unsigned kGroupsAtOnce = Sizes::kFull ? 2 : 3;

extern __shared__ __align__(1024) uint32_t group_memory[];

template <class Sizes>
__global__ void __launch_bounds__(kGroupThreads, kGroupsAtOnce<Sizes>)
    AddFltKeysInGroup(const __grid_constant__ FltCall call) {
  LetOthersStart();
  const FltPart part = call.parts[blockIdx.x];
  if (call.arrays.causal && part.is_last) return;
  const FltQuickSpace space = {call, part, FltQuickLayout::OfGroupKeys<Sizes>(), group_memory};
  QuickTeamOnDevice<FltGroupKeys<BlockThreads, GroupLanes, Sizes>> team(space);
  AddKeysInGroup<BlockThreads, GroupLanes, Sizes>(
      space, team, call.sums + blockIdx.x * static_cast<size_t>(call.shape.SumCount()));
}

template <class Sizes>
__global__ void __launch_bounds__(kGroupThreads, kGroupsAtOnce<Sizes>)
    AnswerFltInGroup(const __grid_constant__ FltCall call) {
  const FltPart part = call.parts[blockIdx.x];
  const FltQuickSpace space = {call, part, FltQuickLayout::OfGroupQueries<Sizes>(), group_memory};
  QuickTeamOnDevice<FltGroupQueries<BlockThreads, GroupLanes, Sizes>> team(space);
  AnswerAllInGroup<EarlyThreads, GroupLanes, Sizes>(
      space, team, call.starts + part.unit * static_cast<size_t>(call.shape.SumCount()));
}

template <class Sizes>
__global__ void __launch_bounds__(kGroupThreads, 2)
    AnswerFltCausalInGroup(const __grid_constant__ FltCall call) {
  const FltPart part = call.parts[blockIdx.x];
  const FltQuickSpace space = {call, part, FltQuickLayout::OfGroupCausal<Sizes>(), group_memory};
  QuickTeamOnDevice<FltGroupCausal<BlockThreads, GroupLanes, Sizes>> team(space);
  AnswerCausalInGroup<BlockThreads, GroupLanes, Sizes>(
      space, team, call.starts + blockIdx.x * static_cast<size_t>(call.shape.SumCount()));
}

// The only ones of causal calls.
using CausalSizes = FltGroupSizes<FltType::kBFloat16>;

// Whether the device has the instructions that this file is compiled for, and no others. Asked once
// of each.
bool HasGroups() {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // 0 if not asked, else 1 more than the answer.
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) return false;
  int answer = known[device].load(std::memory_order_relaxed);
  if (answer == 0) {
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    answer = major == 9 && minor == 0 ? 2 : 1;
    known[device].store(answer, std::memory_order_relaxed);
  }
  return answer == 2;
}

// Lets blocks of a kernel have that much memory, and as many of them be on a multiprocessor as fit
// all of it.
template <typename Kernel>
cudaError_t AllowMemory(Kernel kernel, size_t bytes) {
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

}  // namespace

bool LaunchFltGroupKeys(const FltCall& call, cudaStream_t stream, cudaError_t* error) {
  return HasGroups() && WithFltGroup(call, [&](auto sizes) {
           using Sizes = decltype(sizes);
           constexpr FltQuickLayout kAt = FltQuickLayout::OfGroupKeys<Sizes>();
           constexpr size_t kBytes = kAt.end * sizeof(uint32_t);
           *error = AllowMemory(AddFltKeysInGroup<Sizes>, kBytes);
           if (*error != cudaSuccess) return;
           AddFltKeysInGroup<Sizes><<<call.part_count, kGroupThreads, kBytes, stream>>>(call);
           *error = cudaGetLastError();
         });
}

bool LaunchFltGroupAnswer(const FltCall& call, cudaStream_t stream, cudaError_t* error) {
  if (!HasGroups()) return false;
  if (call.arrays.causal) {
    return WithFltGroup(call, [&](auto) {
      constexpr FltQuickLayout kAt = FltQuickLayout::OfGroupCausal<CausalSizes>();
      constexpr size_t kBytes = kAt.end * sizeof(uint32_t);
      *error = AllowMemory(AnswerFltCausalInGroup<CausalSizes>, kBytes);
      if (*error != cudaSuccess) return;
      AnswerFltCausalInGroup<CausalSizes><<<call.part_count, kGroupThreads, kBytes, stream>>>(call);
      *error = cudaGetLastError();
    });
  }
  return WithFltGroup(call, [&](auto sizes) {
    using Sizes = decltype(sizes);
    constexpr FltQuickLayout kAt = FltQuickLayout::OfGroupQueries<Sizes>();
    constexpr size_t kBytes = kAt.end * sizeof(uint32_t);
    *error = AllowMemory(AnswerFltInGroup<Sizes>, kBytes);
    if (*error != cudaSuccess) return;
    *error =
        LaunchAhead(AnswerFltInGroup<Sizes>, call.part_count, kGroupThreads, kBytes, stream, call);
  });
}

}  // namespace mnemosyne::kernels::cuda
