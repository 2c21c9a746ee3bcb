// The kernels of FLT attention around its programs: what parts of a sequence start from, the state
// that a stream goes on with, and whether positions can be taken.
#include "kernels/cuda/flt_merge.h"
#include "kernels/cuda/flt_quick_team.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

constexpr unsigned kFltThreads = 256;

__global__ void CheckFltPositions(const float* __restrict__ positions, size_t count,
                                  unsigned long long* __restrict__ first_bad) {
  const size_t i = static_cast<size_t>(blockIdx.x) * kFltThreads + threadIdx.x;
  if (i >= count || fabsf(positions[i]) <= kFltPositionLimit) return;  // NaN goes on.
  atomicMax(first_bad, static_cast<unsigned long long>(count - i));
}

__global__ void __launch_bounds__(kFltThreads)
    MergeFltSums(const __grid_constant__ FltCall call, uint32_t blocks) {
  LetOthersStart();
  EarlyThreads::WaitForOthers();
  const uint32_t unit = blockIdx.x / blocks, i = blockIdx.x % blocks * kFltThreads + threadIdx.x;
  if (i >= call.shape.SumCount() || MergeNumber(call, unit, i)) return;
  if (call.quick) {
    *static_cast<volatile uint32_t*>(call.flag) = 1;
    return;
  }
  const FltPart& part = call.parts[call.units[unit].first_part];
  atomicAdd(&call.counts[part.batch * call.shape.heads + part.head].states, 1U);
}

__global__ void __launch_bounds__(kFltThreads)
    WriteFltState(const __grid_constant__ FltCall call, uint32_t blocks) {
  const uint32_t unit = blockIdx.x / blocks, i = blockIdx.x % blocks * kFltThreads + threadIdx.x;
  if (i < call.shape.SumCount() + call.shape.positions) WriteStateNumber(call, unit, i);
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

cudaError_t LaunchFltMerge(const FltCall& call, cudaStream_t stream) {
  const uint32_t blocks = BlocksOf(call.shape.SumCount());
  // As the kernels before and after it, beside which it runs then.
  const cudaError_t error = cudaFuncSetAttribute(
      MergeFltSums, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return error;
  return LaunchAhead(MergeFltSums, call.unit_count * blocks, kFltThreads, 0, stream, call, blocks);
}

cudaError_t LaunchFltState(const FltCall& call, cudaStream_t stream) {
  const uint32_t blocks = BlocksOf(call.shape.SumCount() + call.shape.positions);
  WriteFltState<<<call.unit_count * blocks, kFltThreads, 0, stream>>>(call, blocks);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
