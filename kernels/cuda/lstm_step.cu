// The LSTM step of lstm_sizes.h: a thread takes an element and goes through all units by itself; of
// the size that the shipped models have it takes some elements together, and keeps what units read
// in registers, so that each weight that it reads from shared memory serves several multiply-adds.
// Bound by these. Elements are the bits of the CPU's AVX2 loops.
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/elementary_functions.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

// An element at work: its numbers in the tiles of its state are `width` apart.
struct Element {
  LstmSizes sizes;
  size_t width;
  float* hidden;
  float* cell;
};

// Writes the features of gradient `d` to `x`; returns the weights behind the input layer's.
__device__ __forceinline__ const float* Features(const LstmSizes& sizes, const float* weights,
                                                 float mass, float d, float* mean_at,
                                                 float* square_at, float* x) {
  if (!sizes.normalized) {
    const float size = fabsf(d);
    const bool small = size < kLstmSmall;
    x[0] = small ? -1 : __fdiv_rn(Log(size), kLstmLogSpan);
    x[1] = small ? __fmul_rn(kLstmSmallScale, d) : (d < 0 ? -1 : 1);
    return weights;
  }
  const float mean = __fadd_rn(*mean_at, __fdiv_rn(__fsub_rn(d, *mean_at), mass));
  const float square =
      __fadd_rn(*square_at, __fdiv_rn(__fsub_rn(__fmul_rn(d, d), *square_at), mass));
  *mean_at = mean;
  *square_at = square;
  const float root = __fadd_rn(__fsqrt_rn(square), kLstmRootEpsilon);
  const float first = __fdiv_rn(d, root), second = __fdiv_rn(mean, root);
#pragma unroll
  for (size_t u = 0; u < sizes.hidden; ++u) {
    const float* w = weights + 3 * u;
    x[u] = Elu(__fmaf_rn(w[1], second, __fmaf_rn(w[0], first, w[2])));
  }
  return weights + 3 * sizes.hidden;
}

// Runs a layer with `below` numbers in `x`, and leaves what it gives there. Returns the weights
// behind those of the layer.
__device__ const float* AdvanceLayer(const Element& element, const float* weights, size_t layer,
                                     size_t below, float* x) {
  const size_t count = element.sizes.hidden;
  float* own = element.hidden + layer * count * element.width;
  float* memory = element.cell + layer * count * element.width;
  float outputs[kLstmHiddenMax];
  for (size_t u = 0; u < count; ++u) {
    float gates[4];
    for (float& gate : gates) gate = *weights++;
    for (size_t i = 0; i < below; ++i) {
      for (float& gate : gates) gate = __fmaf_rn(*weights++, x[i], gate);
    }
    for (size_t i = 0; i < count; ++i) {
      for (float& gate : gates) gate = __fmaf_rn(*weights++, own[i * element.width], gate);
    }
    float& c = memory[u * element.width];
    const float kept = __fmul_rn(Divide(SigmoidRatio(gates[1])), c);
    c = __fadd_rn(kept, Divide(Product(SigmoidRatio(gates[0]), TanhRatio(gates[3]))));
    outputs[u] = Divide(Product(SigmoidRatio(gates[2]), TanhRatio(c)));
  }
  for (size_t u = 0; u < count; ++u) x[u] = own[u * element.width] = outputs[u];
  return weights;
}

__device__ float ReadOut(const Element& element, const float* weights) {
  const size_t count = element.sizes.hidden;
  const float* last = element.hidden + (element.sizes.layers - 1) * count * element.width;
  float sum = weights[count];
  for (size_t u = 0; u < count; ++u) sum = __fmaf_rn(weights[u], last[u * element.width], sum);
  return element.sizes.normalized ? Divide(TanhRatio(sum)) : sum;
}

__global__ void LstmStep(const Block* __restrict__ blocks,
                         const LstmCoefficients* __restrict__ coefficients, LstmSizes sizes,
                         const float* __restrict__ weights, size_t weight_count, bool replay,
                         float* __restrict__ values, float* __restrict__ hidden,
                         float* __restrict__ cell, float* __restrict__ mean,
                         float* __restrict__ square, double* __restrict__ square_sums) {
  const Block block = blocks[blockIdx.x];
  const LstmCoefficients c = coefficients[block.segment];
  const size_t numbers = sizes.layers * sizes.hidden;
  const float* read_out = weights + weight_count - sizes.hidden - 1;
  double square_sum = 0;
  for (size_t k = threadIdx.x; k < block.count; k += kThreads) {
    const size_t i = block.offset + k;
    const size_t tile = k / kLstmTile * kLstmTile;
    const size_t width = block.count - tile < kLstmTile ? block.count - tile : kLstmTile;
    const size_t start = (block.offset + tile) * numbers + (k - tile);
    const Element element = {sizes, width, hidden + start, cell + start};
    if (!replay) {
      const float scaled = __fmul_rn(c.gradient_scale, values[i]);
      const float d = fmaxf(fminf(scaled, kLstmGradientMax), -kLstmGradientMax);
      float x[kLstmHiddenMax > 2 ? kLstmHiddenMax : 2];
      const size_t offset = sizes.normalized ? i : 0;
      const float* next = Features(sizes, weights, c.mass, d, mean + offset, square + offset, x);
      for (size_t layer = 0; layer < sizes.layers; ++layer) {
        const size_t below = layer == 0 && !sizes.normalized ? 2 : sizes.hidden;
        next = AdvanceLayer(element, next, layer, below, x);
      }
    }
    const float update = __fmul_rn(-c.output_scale, ReadOut(element, read_out));
    values[i] = update;
    square_sum = __fma_rn(static_cast<double>(update), static_cast<double>(update), square_sum);
  }
  square_sum = SumOverThreads(square_sum);
  if (threadIdx.x == 0) square_sums[blockIdx.x] = square_sum;
}

// Sizes of the shipped models; they differ in kNormalized.
constexpr int kUnits = 20;
constexpr int kLayers = 2;
constexpr int kTogether = 2;  // Elements of a thread.

bool IsShipped(const LstmSizes& sizes) { return sizes.hidden == kUnits && sizes.layers == kLayers; }

// A thread's elements at work. One that is not there does what the first one does, and stores
// nothing.
struct Elements {
  float* hidden[kTogether];
  float* cell[kTogether];
  size_t width[kTogether];
  bool there[kTogether];
};

// As above, with `below` numbers in `x`. A unit's outputs go to the state at once: what units read
// of it is in registers.
template <int kBelow>
__device__ __forceinline__ const float4* AdvanceShipped(const Elements& elements,
                                                        const float4* weights, size_t layer,
                                                        float (&x)[kTogether][kUnits]) {
  float own[kTogether][kUnits];
#pragma unroll
  for (int e = 0; e < kTogether; ++e) {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      own[e][i] = elements.hidden[e][(layer * kUnits + i) * elements.width[e]];
    }
  }
  const auto add = [](float4 w, float input, float(&gates)[4]) {
    gates[0] = __fmaf_rn(w.x, input, gates[0]);
    gates[1] = __fmaf_rn(w.y, input, gates[1]);
    gates[2] = __fmaf_rn(w.z, input, gates[2]);
    gates[3] = __fmaf_rn(w.w, input, gates[3]);
  };
#pragma unroll 1
  for (int u = 0; u < kUnits; ++u) {
    float before[kTogether], gates[kTogether][4];
    const float4 bias = *weights++;
#pragma unroll
    for (int e = 0; e < kTogether; ++e) {
      before[e] = elements.cell[e][(layer * kUnits + u) * elements.width[e]];
      gates[e][0] = bias.x;
      gates[e][1] = bias.y;
      gates[e][2] = bias.z;
      gates[e][3] = bias.w;
    }
#pragma unroll
    for (int i = 0; i < kBelow; ++i) {
      const float4 w = *weights++;
#pragma unroll
      for (int e = 0; e < kTogether; ++e) add(w, x[e][i], gates[e]);
    }
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const float4 w = *weights++;
#pragma unroll
      for (int e = 0; e < kTogether; ++e) add(w, own[e][i], gates[e]);
    }
#pragma unroll
    for (int e = 0; e < kTogether; ++e) {
      const float kept = __fmul_rn(Divide(SigmoidRatio(gates[e][1])), before[e]);
      const float entered = Divide(Product(SigmoidRatio(gates[e][0]), TanhRatio(gates[e][3])));
      const float c = __fadd_rn(kept, entered);
      const float output = Divide(Product(SigmoidRatio(gates[e][2]), TanhRatio(c)));
      if (!elements.there[e]) continue;
      const size_t place = (layer * kUnits + u) * elements.width[e];
      elements.cell[e][place] = c;
      elements.hidden[e][place] = output;
    }
  }
#pragma unroll
  for (int e = 0; e < kTogether; ++e) {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      x[e][i] = elements.hidden[e][(layer * kUnits + i) * elements.width[e]];
    }
  }
  return weights;
}

template <bool kNormalized>
__global__ void __launch_bounds__(kThreads, 2)
    LstmStepShipped(const Block* __restrict__ blocks,
                    const LstmCoefficients* __restrict__ coefficients,
                    const float* __restrict__ weights, size_t weight_count, bool replay,
                    float* __restrict__ values, float* hidden, float* cell,
                    float* __restrict__ mean, float* __restrict__ square,
                    double* __restrict__ square_sums) {
  extern __shared__ float4 staged[];
  float* const shared = reinterpret_cast<float*>(staged);
  for (size_t i = threadIdx.x; i < weight_count; i += kThreads) shared[i] = weights[i];
  __syncthreads();
  const LstmSizes sizes = {kLayers, kUnits, kNormalized};
  const Block block = blocks[blockIdx.x];
  const LstmCoefficients c = coefficients[block.segment];
  constexpr size_t kNumbers = kLayers * kUnits;
  const float* const read_out = shared + weight_count - kUnits - 1;
  double square_sum = 0;
  for (size_t first = threadIdx.x; first < block.count; first += kTogether * kThreads) {
    Elements elements;
    float x[kTogether][kUnits];
#pragma unroll
    for (int e = 0; e < kTogether; ++e) {
      elements.there[e] = first + e * kThreads < block.count;
      const size_t k = elements.there[e] ? first + e * kThreads : first;
      const size_t tile = k / kLstmTile * kLstmTile;
      elements.width[e] = block.count - tile < kLstmTile ? block.count - tile : kLstmTile;
      const size_t start = (block.offset + tile) * kNumbers + (k - tile);
      elements.hidden[e] = hidden + start;
      elements.cell[e] = cell + start;
    }
    const float* next = shared;
    if (!replay) {
#pragma unroll
      for (int e = 0; e < kTogether; ++e) {
        if (!elements.there[e]) {
#pragma unroll
          for (int i = 0; i < kUnits; ++i) x[e][i] = 0;
          continue;
        }
        const size_t i = block.offset + first + e * kThreads;
        const float scaled = __fmul_rn(c.gradient_scale, values[i]);
        const float d = fmaxf(fminf(scaled, kLstmGradientMax), -kLstmGradientMax);
        const size_t offset = kNormalized ? i : 0;
        Features(sizes, shared, c.mass, d, mean + offset, square + offset, x[e]);
      }
      if (kNormalized) next += 3 * kUnits;
      const auto* const layers = reinterpret_cast<const float4*>(next);
      const float4* const second =
          AdvanceShipped < kNormalized ? kUnits : 2 > (elements, layers, 0, x);
      AdvanceShipped<kUnits>(elements, second, 1, x);
    } else {
#pragma unroll
      for (int e = 0; e < kTogether; ++e) {
#pragma unroll
        for (int i = 0; i < kUnits; ++i) {
          x[e][i] = elements.hidden[e][((kLayers - 1) * kUnits + i) * elements.width[e]];
        }
      }
    }
#pragma unroll
    for (int e = 0; e < kTogether; ++e) {
      float sum = read_out[kUnits];
#pragma unroll
      for (int u = 0; u < kUnits; ++u) sum = __fmaf_rn(read_out[u], x[e][u], sum);
      if (kNormalized) sum = Divide(TanhRatio(sum));
      if (!elements.there[e]) continue;
      const float update = __fmul_rn(-c.output_scale, sum);
      values[block.offset + first + e * kThreads] = update;
      square_sum = __fma_rn(static_cast<double>(update), static_cast<double>(update), square_sum);
    }
  }
  square_sum = SumOverThreads(square_sum);
  if (threadIdx.x == 0) square_sums[blockIdx.x] = square_sum;
}

}  // namespace

cudaError_t LaunchLstmStep(const Block* blocks, size_t block_count,
                           const LstmCoefficients* coefficients, const LstmSizes& sizes,
                           const float* weights, bool replay, float* values, float* hidden,
                           float* cell, float* mean, float* square, double* square_sums,
                           cudaStream_t stream) {
  if (IsShipped(sizes)) {
    const auto step = sizes.normalized ? LstmStepShipped<true> : LstmStepShipped<false>;
    const size_t count = LstmWeightCount(sizes);
    step<<<static_cast<unsigned>(block_count), kThreads, count * sizeof(float), stream>>>(
        blocks, coefficients, weights, count, replay, values, hidden, cell, mean, square,
        square_sums);
    return cudaGetLastError();
  }
  LstmStep<<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(
      blocks, coefficients, sizes, weights, LstmWeightCount(sizes), replay, values, hidden, cell,
      mean, square, square_sums);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
