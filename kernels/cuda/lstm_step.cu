// The LSTM step of lstm_sizes.h: a thread takes an element and goes through all units by itself.
// Bound by the gates' multiply-adds. Elements are the bits of the CPU's AVX2 loops: the functions
// below are those of kernels/cpu/elementary_functions.h, rounding for rounding.
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {
namespace {

struct Ratio {
  float above, below;
};

__device__ float Divide(Ratio ratio) { return __fdiv_rn(ratio.above, ratio.below); }

__device__ Ratio TanhRatio(float x) {
  const float limit = 7.90531110763549805F;
  x = fmaxf(fminf(x, limit), -limit);
  const float s = __fmul_rn(x, x);
  float above = -2.76076847742355e-16F;
  above = __fmaf_rn(above, s, 2.00018790482477e-13F);
  above = __fmaf_rn(above, s, -8.60467152213735e-11F);
  above = __fmaf_rn(above, s, 5.12229709037114e-08F);
  above = __fmaf_rn(above, s, 1.48572235717979e-05F);
  above = __fmaf_rn(above, s, 6.37261928875436e-04F);
  above = __fmaf_rn(above, s, 4.89352455891786e-03F);
  float below = 1.19825839466702e-06F;
  below = __fmaf_rn(below, s, 1.18534705686654e-04F);
  below = __fmaf_rn(below, s, 2.26843463243900e-03F);
  below = __fmaf_rn(below, s, 4.89352518554385e-03F);
  return {__fmul_rn(above, x), below};
}

__device__ Ratio SigmoidRatio(float x) {
  const Ratio half = TanhRatio(__fmul_rn(0.5F, x));
  return {__fadd_rn(half.below, half.above), __fadd_rn(half.below, half.below)};
}

__device__ Ratio Product(Ratio a, Ratio b) {
  return {__fmul_rn(a.above, b.above), __fmul_rn(a.below, b.below)};
}

__device__ float Elu(float x) {
  if (x > 0) return x;
  const Ratio t = TanhRatio(__fmul_rn(0.5F, x));
  return Divide({__fadd_rn(t.above, t.above), __fsub_rn(t.below, t.above)});
}

__device__ float Log(float x) {
  const unsigned bits = __float_as_uint(x);
  float exponent = static_cast<float>(static_cast<int>(bits >> 23) - 127);
  float m = __uint_as_float((bits & 0x007FFFFFU) | 0x3F800000U);
  if (!(m < 1.41421356F)) {
    exponent = __fadd_rn(exponent, 1);
    m = __fmul_rn(m, 0.5F);
  }
  const float f = __fsub_rn(m, 1);
  const float s = __fmul_rn(f, f);
  float p = 7.0376836292e-2F;
  p = __fmaf_rn(p, f, -1.1514610310e-1F);
  p = __fmaf_rn(p, f, 1.1676998740e-1F);
  p = __fmaf_rn(p, f, -1.2420140846e-1F);
  p = __fmaf_rn(p, f, 1.4249322787e-1F);
  p = __fmaf_rn(p, f, -1.6668057665e-1F);
  p = __fmaf_rn(p, f, 2.0000714765e-1F);
  p = __fmaf_rn(p, f, -2.4999993993e-1F);
  p = __fmaf_rn(p, f, 3.3333331174e-1F);
  float y = __fmul_rn(__fmul_rn(p, f), s);
  y = __fmaf_rn(exponent, -2.12194440e-4F, y);
  y = __fmaf_rn(-0.5F, s, y);
  return __fmaf_rn(exponent, 0.693359375F, __fadd_rn(f, y));
}

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
