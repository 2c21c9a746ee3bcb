// The kernels of FLT attention: a block takes a part of a sequence of a head.
#include "kernels/cuda/block_threads.cuh"
#include "kernels/cuda/flt_block.h"
#include "kernels/cuda/flt_merge.h"
#include "kernels/cuda/flt_scratch.h"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

constexpr unsigned kFltThreads = 256;

extern __shared__ float4 scratch[];

__global__ void CheckFltPositions(const float* __restrict__ positions, size_t count,
                                  unsigned long long* __restrict__ first_bad) {
  const size_t i = static_cast<size_t>(blockIdx.x) * kFltThreads + threadIdx.x;
  if (i >= count || fabsf(positions[i]) <= kFltPositionLimit) return;  // NaN goes on.
  atomicMax(first_bad, static_cast<unsigned long long>(count - i));
}

__global__ void __launch_bounds__(kFltThreads) AddFltKeys(const __grid_constant__ FltCall call) {
  const FltPart part = call.parts[blockIdx.x];
  if (call.arrays.causal && part.is_last) return;
  FltBlock<BlockThreads> block(call, part, reinterpret_cast<float*>(scratch));
  block.AddKeys(call.sums + blockIdx.x * static_cast<size_t>(call.shape.SumCount()),
                !call.arrays.causal);
}

__global__ void __launch_bounds__(kFltThreads)
    MergeFltSums(const __grid_constant__ FltCall call, uint32_t blocks) {
  const uint32_t unit = blockIdx.x / blocks, i = blockIdx.x % blocks * kFltThreads + threadIdx.x;
  if (i >= call.shape.SumCount() || MergeNumber(call, unit, i)) return;
  const FltPart& part = call.parts[call.units[unit].first_part];
  atomicAdd(&call.counts[part.batch * call.shape.heads + part.head].states, 1U);
}

__global__ void __launch_bounds__(kFltThreads) AnswerFlt(const __grid_constant__ FltCall call) {
  const FltPart part = call.parts[blockIdx.x];
  FltBlock<BlockThreads> block(call, part, reinterpret_cast<float*>(scratch));
  const size_t count = call.shape.SumCount();
  if (call.arrays.causal) {
    block.AnswerCausal(call.starts + blockIdx.x * count);
  } else {
    block.AnswerAll(call.starts + part.unit * count);
  }
}

__global__ void __launch_bounds__(kFltThreads)
    WriteFltState(const __grid_constant__ FltCall call, uint32_t blocks) {
  const uint32_t unit = blockIdx.x / blocks, i = blockIdx.x % blocks * kFltThreads + threadIdx.x;
  if (i < call.shape.SumCount() + call.shape.positions) WriteStateNumber(call, unit, i);
}

template <typename Kernel>
cudaError_t LaunchParts(Kernel kernel, const FltCall& call, cudaStream_t stream) {
  const size_t bytes = FltScratchLayout(call.shape, call.tile_rows).end * sizeof(float);
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  kernel<<<call.part_count, kFltThreads, bytes, stream>>>(call);
  return cudaGetLastError();
}

uint32_t BlocksOf(size_t count) {
  return static_cast<uint32_t>((count + kFltThreads - 1) / kFltThreads);
}

}  // namespace

cudaError_t LaunchFltPositions(const float* positions, size_t count, uint64_t* first_bad,
                               cudaStream_t stream) {
  CheckFltPositions<<<BlocksOf(count), kFltThreads, 0, stream>>>(
      positions, count, reinterpret_cast<unsigned long long*>(first_bad));
  return cudaGetLastError();
}

cudaError_t LaunchFltKeys(const FltCall& call, cudaStream_t stream) {
  return LaunchParts(AddFltKeys, call, stream);
}

cudaError_t LaunchFltMerge(const FltCall& call, cudaStream_t stream) {
  const uint32_t blocks = BlocksOf(call.shape.SumCount());
  MergeFltSums<<<call.unit_count * blocks, kFltThreads, 0, stream>>>(call, blocks);
  return cudaGetLastError();
}

cudaError_t LaunchFltAnswer(const FltCall& call, cudaStream_t stream) {
  return LaunchParts(AnswerFlt, call, stream);
}

cudaError_t LaunchFltState(const FltCall& call, cudaStream_t stream) {
  const uint32_t blocks = BlocksOf(call.shape.SumCount() + call.shape.positions);
  WriteFltState<<<call.unit_count * blocks, kFltThreads, 0, stream>>>(call, blocks);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
