// The kernels of the backward pass of FLT attention: a block takes a part of a sequence of a head.
#include "kernels/cuda/block_threads.cuh"
#include "kernels/cuda/flt_back_block.h"
#include "kernels/cuda/flt_back_merge.h"
#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

constexpr unsigned kFltThreads = 256;
constexpr unsigned kFltBlocks = 2;  // Of a multiprocessor; see FltRunner::Differentiate.

extern __shared__ float4 scratch[];

__global__ void __launch_bounds__(kFltThreads, kFltBlocks)
    RunFltQueries(const __grid_constant__ FltBackCall call, uint32_t gradient_count) {
  const FltPart part = call.forward.parts[blockIdx.x];
  FltBackBlock<BlockThreads, WarpLanes> block(call, part, reinterpret_cast<float*>(scratch),
                                              call.gradients + blockIdx.x * size_t{gradient_count});
  const size_t start = call.forward.arrays.causal ? blockIdx.x : part.unit;
  block.RunQueries(call.forward.starts + start * call.forward.shape.SumCount(),
                   call.sums + blockIdx.x * size_t{call.QuerySumCount()});
}

__global__ void __launch_bounds__(kFltThreads, kFltBlocks)
    RunFltKeys(const __grid_constant__ FltBackCall call, uint32_t gradient_count) {
  const FltPart part = call.forward.parts[blockIdx.x];
  FltBackBlock<BlockThreads, WarpLanes> block(call, part, reinterpret_cast<float*>(scratch),
                                              call.gradients + blockIdx.x * size_t{gradient_count});
  const size_t start = call.forward.arrays.causal ? blockIdx.x : part.unit;
  block.RunKeys(call.starts + start * call.QuerySumCount());
}

__global__ void __launch_bounds__(kFltThreads)
    MergeFltQuerySums(const __grid_constant__ FltBackCall call, uint32_t blocks) {
  const uint32_t unit = blockIdx.x / blocks, i = blockIdx.x % blocks * kFltThreads + threadIdx.x;
  if (i < call.QuerySumCount()) MergeQueryNumber(call, unit, i);
}

__global__ void __launch_bounds__(kFltThreads)
    AddFltTotals(const __grid_constant__ FltBackCall call, uint32_t count, uint32_t blocks) {
  const uint32_t head = blockIdx.x / blocks, i = blockIdx.x % blocks * kFltThreads + threadIdx.x;
  if (i < count) AddToTotal(call, count, head, i);
}

uint32_t GradientCount(const FltBackCall& call) {
  return FltGradientPlaces(call.forward.shape, call.of_waves, call.of_projection).end;
}

// A block a part.
template <typename Kernel>
cudaError_t LaunchParts(Kernel kernel, const FltBackCall& call, cudaStream_t stream) {
  const FltCall& forward = call.forward;
  const size_t bytes =
      FltBackScratchLayout(forward.shape, call.tile_rows, forward.arrays.causal).end *
      sizeof(float);
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  kernel<<<forward.part_count, kFltThreads, bytes, stream>>>(call, GradientCount(call));
  return cudaGetLastError();
}

uint32_t BlocksOf(size_t count) {
  return static_cast<uint32_t>((count + kFltThreads - 1) / kFltThreads);
}

}  // namespace

cudaError_t LaunchFltBackQueries(const FltBackCall& call, cudaStream_t stream) {
  if (call.quick) return LaunchFltQuickBackQueries(call, stream);
  return LaunchParts(RunFltQueries, call, stream);
}

cudaError_t LaunchFltBackMerge(const FltBackCall& call, cudaStream_t stream) {
  const uint32_t blocks = BlocksOf(call.QuerySumCount());
  MergeFltQuerySums<<<call.forward.unit_count * blocks, kFltThreads, 0, stream>>>(call, blocks);
  return cudaGetLastError();
}

cudaError_t LaunchFltBackKeys(const FltBackCall& call, cudaStream_t stream) {
  if (call.quick) return LaunchFltQuickBackKeys(call, stream);
  return LaunchParts(RunFltKeys, call, stream);
}

cudaError_t LaunchFltBackTotals(const FltBackCall& call, cudaStream_t stream) {
  const uint32_t count = GradientCount(call), blocks = BlocksOf(count);
  AddFltTotals<<<call.forward.shape.heads * blocks, kFltThreads, 0, stream>>>(call, count, blocks);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
