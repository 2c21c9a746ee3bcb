// The kernels of FLT attention: a block takes a part of a sequence of a head. It is a team of warps
// on tensor cores where there is one of the problem's sizes.
#include "kernels/cuda/block_threads.cuh"
#include "kernels/cuda/flt_block.h"
#include "kernels/cuda/flt_scratch.h"
#include "kernels/cuda/flt_team_part.h"
#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

constexpr unsigned kFltThreads = 256;

extern __shared__ float4 scratch[];

__global__ void __launch_bounds__(kFltThreads) AddFltKeys(const __grid_constant__ FltCall call) {
  const FltPart part = call.parts[blockIdx.x];
  if (call.arrays.causal && part.is_last) return;
  FltBlock<BlockThreads, WarpLanes> block(call, part, reinterpret_cast<float*>(scratch));
  block.AddKeys(call.sums + blockIdx.x * static_cast<size_t>(call.shape.SumCount()),
                !call.arrays.causal);
}

__global__ void __launch_bounds__(kFltThreads) AnswerFlt(const __grid_constant__ FltCall call) {
  const FltPart part = call.parts[blockIdx.x];
  FltBlock<BlockThreads, WarpLanes> block(call, part, reinterpret_cast<float*>(scratch));
  const size_t count = call.shape.SumCount();
  if (call.arrays.causal) {
    block.AnswerCausal(call.starts + blockIdx.x * count);
  } else {
    block.AnswerAll(call.starts + part.unit * count);
  }
}

// The warp of a team that a thread belongs to, in the place of all.
template <class Sizes>
class TeamOnDevice {
 public:
  __device__ explicit TeamOnDevice(const FltTeamSpace<Sizes>& space)
      : warp_(space, threadIdx.x / 32) {}

  template <typename F>
  __device__ __forceinline__ void Each(const F& f) {
    f(warp_);
    __syncthreads();
  }
  __device__ __forceinline__ auto& warp() { return warp_; }

 private:
  FltTeamWarp<BlockThreads, WarpLanes, Sizes> warp_;
};

template <class Sizes, FltTask kTask>
__global__ void __launch_bounds__(32 * Sizes::kWarps)
    RunFltTeam(const __grid_constant__ FltCall call) {
  const FltPart part = call.parts[blockIdx.x];
  if (kTask == FltTask::kAddKeys && call.arrays.causal && part.is_last) return;
  const FltTeamSpace<Sizes> space = {call, part, FltTeamLayout::Of<Sizes>(call.shape, kTask),
                                     reinterpret_cast<uint32_t*>(scratch)};
  TeamOnDevice<Sizes> team(space);
  const size_t count = call.shape.SumCount();
  if (kTask == FltTask::kAddKeys) {
    AddKeysByTeam<BlockThreads>(space, team, call.sums + blockIdx.x * count, !call.arrays.causal);
  } else if (kTask == FltTask::kAnswerAll) {
    AnswerAllByTeam<BlockThreads>(space, team, call.starts + part.unit * count);
  } else {
    AnswerCausalByTeam<BlockThreads>(space, team, call.starts + blockIdx.x * count);
  }
}

// A block a part.
template <typename Kernel>
cudaError_t LaunchParts(Kernel kernel, const FltCall& call, unsigned threads, size_t bytes,
                        cudaStream_t stream) {
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  kernel<<<call.part_count, threads, bytes, stream>>>(call);
  return cudaGetLastError();
}

template <FltTask kTask, typename Kernel>
cudaError_t LaunchTask(Kernel of_a_block, const FltCall& call, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  const bool by_team = WithFltTeam<kTask>(call, [&](auto sizes) {
    using Sizes = decltype(sizes);
    const size_t bytes = FltTeamLayout::Of<Sizes>(call.shape, kTask).end * sizeof(uint32_t);
    error = LaunchParts(RunFltTeam<Sizes, kTask>, call, 32 * Sizes::kWarps, bytes, stream);
  });
  if (by_team) return error;
  const size_t bytes = FltScratchLayout(call.shape, call.tile_rows).end * sizeof(float);
  return LaunchParts(of_a_block, call, kFltThreads, bytes, stream);
}

}  // namespace

cudaError_t LaunchFltKeys(const FltCall& call, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  if (LaunchFltQuickKeys(call, stream, &error)) return error;
  return LaunchTask<FltTask::kAddKeys>(AddFltKeys, call, stream);
}

cudaError_t LaunchFltAnswer(const FltCall& call, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  if (LaunchFltQuickAnswer(call, stream, &error)) return error;
  return call.arrays.causal ? LaunchTask<FltTask::kAnswerCausal>(AnswerFlt, call, stream)
                            : LaunchTask<FltTask::kAnswerAll>(AnswerFlt, call, stream);
}

}  // namespace mnemosyne::kernels::cuda
