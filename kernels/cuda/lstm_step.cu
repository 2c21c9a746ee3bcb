// The LSTM step of lstm_sizes.h: a thread takes an element and goes through all units by itself.
// Bound by the gates' multiply-adds. Elements are the bits of the CPU's AVX2 loops.
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
__device__ const float* Features(const LstmSizes& sizes, const float* weights, float mass, float d,
                                 float* mean_at, float* square_at, float* x) {
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

}  // namespace

cudaError_t LaunchLstmStep(const Block* blocks, size_t block_count,
                           const LstmCoefficients* coefficients, const LstmSizes& sizes,
                           const float* weights, bool replay, float* values, float* hidden,
                           float* cell, float* mean, float* square, double* square_sums,
                           cudaStream_t stream) {
  LstmStep<<<static_cast<unsigned>(block_count), kThreads, 0, stream>>>(
      blocks, coefficients, sizes, weights, LstmWeightCount(sizes), replay, values, hidden, cell,
      mean, square, square_sums);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
