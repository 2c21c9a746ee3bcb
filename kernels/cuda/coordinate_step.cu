// The coordinate-wise optimizer's step: the moments take in the gradient, then a tensor's means are
// formed, then each thread takes an element through the rest by itself.
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/coordinate_element.h"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

__global__ void WriteMoments(const Block* __restrict__ blocks,
                             const CoordinateTensor* __restrict__ tensors, CoordinateArrays arrays,
                             double* __restrict__ square_sums) {
  const Block block = blocks[blockIdx.x];
  const CoordinateTensor& tensor = tensors[block.segment];
  double sum = 0;
  for (size_t k = threadIdx.x; k < block.count; k += kThreads) {
    sum += static_cast<double>(WriteCoordinate(tensor, arrays, block.offset + k));
  }
  sum = SumOverThreads(sum);
  if (threadIdx.x == 0) square_sums[blockIdx.x] = sum;
}

// The mean of s over each tensor: a block takes one. `first_blocks` is [segments + 1].
__global__ void SumSegments(const uint32_t* __restrict__ first_blocks,
                            const CoordinatePlace* __restrict__ places,
                            const double* __restrict__ square_sums, float* __restrict__ means) {
  double sum = 0;
  for (size_t b = first_blocks[blockIdx.x] + threadIdx.x; b < first_blocks[blockIdx.x + 1];
       b += kThreads) {
    sum += square_sums[b];
  }
  sum = SumOverThreads(sum);
  if (threadIdx.x != 0) return;
  means[blockIdx.x] =
      static_cast<float>(sum / static_cast<double>(places[blockIdx.x].segment.count));
}

// A block takes one of `blocks`. Where indices have short strides, threads read the elements of all
// of its indices that lie in a row, and a thread adds up what they have found of an index.
__global__ void AverageAxes(const CoordinateAxis* __restrict__ axes,
                            const CoordinateMeans* __restrict__ blocks,
                            const CoordinatePlace* __restrict__ places,
                            const float* __restrict__ squares, const float* __restrict__ means,
                            float* __restrict__ axis_means) {
  const CoordinateMeans of = blocks[blockIdx.x];
  const CoordinateAxis axis = axes[of.axis];
  const Segment segment = places[axis.segment].segment;
  const float mean = means[axis.segment], unit = mean > kCoordinateSquareMin ? mean : 1.0F;
  const size_t count = segment.count / axis.length;
  float* const to = axis_means + axis.first + of.first;
  double sum = 0;
  if (axis.stride >= kCoordinateRow) {
    for (size_t i = threadIdx.x; i < count; i += kThreads) {
      const float square = squares[segment.offset + AxisElement(axis, of.first, i)];
      sum += static_cast<double>(square / unit);
    }
    sum = SumOverThreads(sum);
    if (threadIdx.x == 0) *to = static_cast<float>(sum / static_cast<double>(count));
    return;
  }
  __shared__ double sums[kThreads];
  const unsigned stride = static_cast<unsigned>(axis.stride), row = of.count * stride;
  const unsigned rows = kThreads / row;  // That are read at once.
  const size_t length = axis.length * axis.stride, row_count = segment.count / length;
  if (threadIdx.x < rows * row) {
    const float* from = squares + segment.offset + of.first * stride + threadIdx.x % row;
    for (size_t r = threadIdx.x / row; r < row_count; r += rows) {
      sum += static_cast<double>(from[r * length] / unit);
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= of.count) return;
  sum = 0;
  for (unsigned r = 0; r < rows; ++r) {
    for (unsigned i = 0; i < stride; ++i) sum += sums[r * row + threadIdx.x * stride + i];
  }
  to[threadIdx.x] = static_cast<float>(sum / static_cast<double>(count));
}

// Blocks of a model of the shipped sizes have its weights in shared memory.
template <bool kShipped>
__global__ void Decide(const Block* __restrict__ blocks,
                       const CoordinateTensor* __restrict__ tensors,
                       const CoordinatePlace* __restrict__ places,
                       const CoordinateAxis* __restrict__ axes,
                       const float* __restrict__ axis_means, const float* __restrict__ means,
                       const float* __restrict__ told,
                       const __grid_constant__ CoordinateModel model, CoordinateArrays arrays,
                       size_t weight_count) {
  extern __shared__ float weights[];
  if (kShipped) {
    for (size_t i = threadIdx.x; i < weight_count; i += kThreads) weights[i] = arrays.weights[i];
    __syncthreads();
    arrays.weights = weights;
  }
  const Block block = blocks[blockIdx.x];
  const CoordinatePlace place = places[block.segment];
  for (size_t k = threadIdx.x; k < block.count; k += kThreads) {
    const size_t i = block.offset + k - place.segment.offset;
    DecideCoordinate<kShipped>(model, tensors[block.segment], arrays, place.segment, i,
                               means[block.segment], FactoredRatio(place, axes, axis_means, i),
                               told + block.segment * model.sizes.hidden);
  }
}

__global__ void TellUpdates(const Block* __restrict__ blocks, const float* __restrict__ updates,
                            float* __restrict__ values, double* __restrict__ square_sums) {
  const Block block = blocks[blockIdx.x];
  double sum = 0;
  for (size_t i = block.offset + threadIdx.x; i < block.offset + block.count; i += kThreads) {
    values[i] = updates[i];
    sum = fma(static_cast<double>(updates[i]), static_cast<double>(updates[i]), sum);
  }
  sum = SumOverThreads(sum);
  if (threadIdx.x == 0) square_sums[blockIdx.x] = sum;
}

}  // namespace

cudaError_t LaunchCoordinateStep(const CoordinateTables& tables, const CoordinateModel& model,
                                 const CoordinateArrays& arrays, bool replay, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(tables.block_count);
  if (!replay) {
    WriteMoments<<<blocks, kThreads, 0, stream>>>(tables.blocks, tables.tensors, arrays,
                                                  tables.square_sums);
    SumSegments<<<static_cast<unsigned>(tables.segment_count), kThreads, 0, stream>>>(
        tables.first_blocks, tables.places, tables.square_sums, tables.means);
    if (tables.axis_block_count > 0) {
      AverageAxes<<<static_cast<unsigned>(tables.axis_block_count), kThreads, 0, stream>>>(
          tables.axes, tables.axis_blocks, tables.places, arrays.square, tables.means,
          tables.axis_means);
    }
    const bool shipped = AreShipped(model.sizes);
    const auto decide = shipped ? Decide<true> : Decide<false>;
    const size_t weight_count = CoordinateWeightCount(model.sizes);
    decide<<<blocks, kThreads, shipped ? weight_count * sizeof(float) : 0, stream>>>(
        tables.blocks, tables.tensors, tables.places, tables.axes, tables.axis_means, tables.means,
        tables.told, model, arrays, weight_count);
  }
  TellUpdates<<<blocks, kThreads, 0, stream>>>(tables.blocks, arrays.update, arrays.values,
                                               tables.square_sums);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
