// The ops of row_ops.h, simply: a thread takes a number of the result. Sums go in the order of the
// CPU's loops, so that the bits are those of its AVX2 version.
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/elementary_functions.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

unsigned BlocksFor(size_t count) {
  return static_cast<unsigned>((count + kThreads - 1) / kThreads);
}

__device__ size_t ThisNumber() { return static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x; }

__device__ float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kTanh:
      return Tanh(x);
    case Activation::kRelu:
      return fmaxf(x, 0);
    case Activation::kSigmoid:
      return Divide(SigmoidRatio(x));
    case Activation::kNone:
      break;
  }
  return x;
}

__device__ float DivideOrZero(float x, float y) {
  return kDenominatorMin < fabsf(y) ? __fdiv_rn(x, y) : 0;
}

// A thread takes a row and a column.
__global__ void DenseLayer(DenseSizes sizes, size_t rows, RowsIn x,
                           const float* __restrict__ weights, const float* __restrict__ bias,
                           RowsOut y) {
  const size_t number = ThisNumber();
  if (number >= rows * sizes.outputs) return;
  const size_t row = number / sizes.outputs, column = number % sizes.outputs;
  float& target = y.data[row * y.stride + column];
  float sum = sizes.accumulate ? target : (bias == nullptr ? 0 : bias[column]);
  for (size_t i = 0; i < sizes.inputs; ++i) {
    sum = __fmaf_rn(x.data[row * x.stride + i], weights[i * sizes.outputs + column], sum);
  }
  target = sizes.accumulate ? sum : Activate(sizes.activation, sum);
}

__device__ float HalfSquare(const float* x, size_t count) {
  float sum = 0;
  for (size_t i = 0; i < count; ++i) sum = __fmaf_rn(x[i], x[i], sum);
  return __fmul_rn(0.5F, sum);
}

__device__ float Rectified(const float* x, size_t inputs, size_t k) {
  const float signed_x = k < inputs ? x[k] : -x[k - inputs];
  return signed_x > 0 ? signed_x : 0;
}

// A thread takes a row and a feature.
__global__ void FeatureMap(FeatureMapSizes sizes, size_t columns, size_t rows, RowsIn all,
                           const float* __restrict__ weights, const float* __restrict__ bias,
                           RowsOut phi) {
  const size_t number = ThisNumber();
  if (number >= rows * sizes.features) return;
  const size_t row = number / sizes.features, k = number % sizes.features;
  const float* x = all.data + row * all.stride;
  float& target = phi.data[row * phi.stride + k];
  if (sizes.shape == FeatureMapShape::kElu) {
    target = x[k] > 0 ? __fadd_rn(x[k], 1) : Exp(fminf(x[k], 0));
    return;
  }
  if (sizes.shape == FeatureMapShape::kDpfp) {
    const size_t count = 2 * sizes.inputs;
    const size_t turn = (k / count + 1) % count, at = k % count;
    const size_t other = at >= turn ? at - turn : at + count - turn;
    target = __fmul_rn(Rectified(x, sizes.inputs, at), Rectified(x, sizes.inputs, other));
    return;
  }
  const size_t column = k % columns;
  float sum = bias == nullptr ? 0 : bias[column];
  for (size_t i = 0; i < sizes.inputs; ++i) {
    sum = __fmaf_rn(x[i], weights[i * columns + column], sum);
  }
  if (sizes.shape == FeatureMapShape::kRelu) {
    target = __fmaf_rn(sizes.scale, fmaxf(sum, 0), sizes.epsilon);
    return;
  }
  const float projected = k < columns ? sum : __fsub_rn(0, sum);
  target = __fmul_rn(sizes.scale, Exp(__fsub_rn(projected, HalfSquare(x, sizes.inputs))));
}

// A block of threads takes a group; N and Psi lie in its shared memory.
__global__ void BidirectionalAttention(const size_t* __restrict__ starts, AttentionSizes sizes,
                                       RowsIn phi_q, RowsIn phi_k, RowsIn values,
                                       const float* __restrict__ row_weights, RowsOut out) {
  extern __shared__ float memory[];
  float* content = memory;
  float* normalizer = memory + sizes.features * sizes.width;
  const size_t first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
  for (size_t k = threadIdx.x; k < sizes.features * (sizes.width + 1); k += kThreads) {
    const bool is_content = k < sizes.features * sizes.width;
    const size_t m = is_content ? k / sizes.width : k - sizes.features * sizes.width;
    float sum = 0;
    for (size_t j = first; j < end; ++j) {
      const float weight = row_weights == nullptr ? 1 : row_weights[j];
      const float key = __fmul_rn(phi_k.data[j * phi_k.stride + m], weight);
      sum = is_content ? __fmaf_rn(key, values.data[j * values.stride + k % sizes.width], sum)
                       : __fadd_rn(sum, key);
    }
    (is_content ? content[k] : normalizer[m]) = sum;
  }
  __syncthreads();
  for (size_t k = threadIdx.x; k < (end - first) * sizes.width; k += kThreads) {
    const size_t i = first + k / sizes.width, d = k % sizes.width;
    const float* query = phi_q.data + i * phi_q.stride;
    float above = 0, below = 0;
    for (size_t m = 0; m < sizes.features; ++m) {
      above = __fmaf_rn(query[m], content[m * sizes.width + d], above);
      below = __fmaf_rn(query[m], normalizer[m], below);
    }
    out.data[i * out.stride + d] = DivideOrZero(above, below);
  }
}

// A block of threads takes a memory, a thread a column of it. All of them read the normalizers that
// each writes a part of: no __restrict__, which would let the compiler read before the barrier.
__global__ void AdditiveMemory(MemoryArgsOnDevice args, float* normalizers) {
  const size_t b = blockIdx.x;
  const size_t features = args.sizes.features, width = args.sizes.width;
  const float discount = args.discounts[b % args.heads];
  float* content = args.content + b * features * width;
  float* normalizer = normalizers + b * features;
  for (size_t t = 0; t < args.steps; ++t) {
    const size_t row = b * args.steps + t;
    const float* query = args.phi_q + row * features;
    const float* key = args.phi_k + row * features;
    const float* value = args.values + (b / args.heads * args.steps + t) * width;
    for (size_t m = threadIdx.x; m < features; m += kThreads) {
      normalizer[m] = __fmaf_rn(discount, normalizer[m], key[m]);
    }
    __syncthreads();
    for (size_t d = threadIdx.x; d < width; d += kThreads) {
      float above = 0, below = 0;
      for (size_t m = 0; m < features; ++m) {
        float& number = content[m * width + d];
        number = __fmaf_rn(key[m], value[d], __fmul_rn(discount, number));
        above = __fmaf_rn(query[m], number, above);
        below = __fmaf_rn(query[m], normalizer[m], below);
      }
      args.out[row * width + d] = DivideOrZero(above, below);
    }
    __syncthreads();
  }
}

__device__ float Sum(const float* numbers, size_t count) {
  float sum = 0;
  for (size_t i = 0; i < count; ++i) sum = __fadd_rn(sum, numbers[i]);
  return sum;
}

__global__ void DeltaMemory(MemoryArgsOnDevice args, const float* __restrict__ betas) {
  const size_t b = blockIdx.x;
  const size_t features = args.sizes.features, width = args.sizes.width;
  const float discount = args.discounts[b % args.heads];
  float* content = args.content + b * features * width;
  for (size_t t = 0; t < args.steps; ++t) {
    const size_t row = b * args.steps + t;
    const float* query = args.phi_q + row * features;
    const float* key = args.phi_k + row * features;
    const float* value = args.values + (b / args.heads * args.steps + t) * width;
    const float query_sum = Sum(query, features), key_sum = Sum(key, features);
    for (size_t d = threadIdx.x; d < width; d += kThreads) {
      float old = 0, read = 0;
      for (size_t m = 0; m < features; ++m) {
        float& number = content[m * width + d];
        number = __fmul_rn(discount, number);
        old = __fmaf_rn(DivideOrZero(key[m], key_sum), number, old);
      }
      const float change = __fmul_rn(betas[row], __fsub_rn(value[d], old));
      for (size_t m = 0; m < features; ++m) {
        float& number = content[m * width + d];
        number = __fmaf_rn(DivideOrZero(key[m], key_sum), change, number);
        read = __fmaf_rn(DivideOrZero(query[m], query_sum), number, read);
      }
      args.out[row * width + d] = read;
    }
  }
}

}  // namespace

cudaError_t LaunchDenseLayer(const DenseSizes& sizes, size_t rows, const RowsIn& x,
                             const float* weights, const float* bias, const RowsOut& y,
                             cudaStream_t stream) {
  DenseLayer<<<BlocksFor(rows * sizes.outputs), kThreads, 0, stream>>>(sizes, rows, x, weights,
                                                                       bias, y);
  return cudaGetLastError();
}

cudaError_t LaunchFeatureMap(const FeatureMapSizes& sizes, size_t rows, const RowsIn& x,
                             const float* weights, const float* bias, const RowsOut& phi,
                             cudaStream_t stream) {
  const size_t columns = ProjectionCount(sizes);
  FeatureMap<<<BlocksFor(rows * sizes.features), kThreads, 0, stream>>>(sizes, columns, rows, x,
                                                                        weights, bias, phi);
  return cudaGetLastError();
}

cudaError_t LaunchBidirectionalAttention(const size_t* starts, size_t group_count,
                                         const AttentionSizes& sizes, const RowsIn& phi_q,
                                         const RowsIn& phi_k, const RowsIn& values,
                                         const float* row_weights, const RowsOut& out,
                                         cudaStream_t stream) {
  const size_t shared = sizes.features * (sizes.width + 1) * sizeof(float);
  BidirectionalAttention<<<static_cast<unsigned>(group_count), kThreads, shared, stream>>>(
      starts, sizes, phi_q, phi_k, values, row_weights, out);
  return cudaGetLastError();
}

cudaError_t LaunchAdditiveMemory(const MemoryArgsOnDevice& args, size_t memories, float* normalizer,
                                 cudaStream_t stream) {
  AdditiveMemory<<<static_cast<unsigned>(memories), kThreads, 0, stream>>>(args, normalizer);
  return cudaGetLastError();
}

cudaError_t LaunchDeltaMemory(const MemoryArgsOnDevice& args, size_t memories, const float* betas,
                              cudaStream_t stream) {
  DeltaMemory<<<static_cast<unsigned>(memories), kThreads, 0, stream>>>(args, betas);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
