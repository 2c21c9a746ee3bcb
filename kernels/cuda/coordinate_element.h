// What a thread does in a step of the coordinate-wise optimizer: see coordinate_sizes.h. Plain
// functions, which tests run on the CPU.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/coordinate_sizes.h"
#include "kernels/cuda/coordinate_tables.h"
#include "kernels/cuda/device_functions.h"
#include "kernels/segment.h"

namespace mnemosyne::kernels::cuda {

// r1, r2 and s take in the gradient, which is left in `values` as the optimizer sees it. Returns s.
MNEMOSYNE_DEVICE float WriteCoordinate(const CoordinateTensor& tensor,
                                       const CoordinateArrays& arrays, size_t at) {
  const float d = fmaxf(fminf(tensor.gradient_scale * arrays.values[at], kCoordinateGradientMax),
                        -kCoordinateGradientMax);
  const auto write = [&](float* mean, float value, float mass) {
    mean[at] += (value - mean[at]) / mass;
  };
  write(arrays.fast, d, tensor.mass_fast);
  write(arrays.slow, d, tensor.mass_slow);
  write(arrays.square, d * d, tensor.mass_square);
  arrays.values[at] = d;
  return arrays.square[at];
}

// Element i of those that have index `index` on the axis, of a tensor of which they are
// count / length.
MNEMOSYNE_DEVICE size_t AxisElement(const CoordinateAxis& axis, size_t index, size_t i) {
  return i / axis.stride * (axis.length * axis.stride) + index * axis.stride + i % axis.stride;
}

// q^ of element `i`.
MNEMOSYNE_DEVICE float FactoredRatio(const CoordinatePlace& place, const CoordinateAxis* axes,
                                     const float* means, size_t i) {
  float product = 1;
  for (uint32_t a = place.first_axis; a < place.first_axis + place.axis_count; ++a) {
    product *= means[axes[a].first + i / axes[a].stride % axes[a].length];
  }
  return product;
}

MNEMOSYNE_DEVICE float ClipTo(float x, float limit) { return fmaxf(fminf(x, limit), -limit); }

// log(square) / 4 in [-2, 2].
MNEMOSYNE_DEVICE float HalfLogOf(float square) {
  return 0.25F * logf(fmaxf(fminf(square, kCoordinateLogSquareMax), kCoordinateLogSquareMin));
}

MNEMOSYNE_DEVICE size_t PaddedTo16(size_t count) {
  return (count + kWeightColumns - 1) / kWeightColumns * kWeightColumns;
}

// The sizes of the shipped model, but for the scale of the map.
inline bool AreShipped(const CoordinateSizes& s) {
  return s.key_width == 4 && s.value_width == 4 && s.heads == 2 && s.map.inputs == 4 &&
         s.map.features == 4 && s.map.shape == FeatureMapShape::kExponential && !s.map_bias &&
         s.hidden == 24;
}

// The sizes of a model: those that loops are over are known to the compiler if they are kShipped.
template <bool kShipped>
MNEMOSYNE_DEVICE CoordinateSizes SizesOf(const CoordinateModel& model) {
  CoordinateSizes sizes = model.sizes;
  if (!kShipped) return sizes;
  sizes.key_width = sizes.value_width = 4;
  sizes.heads = 2;
  sizes.map.inputs = sizes.map.features = 4;
  sizes.map.shape = FeatureMapShape::kExponential;
  sizes.map_bias = false;
  sizes.hidden = 24;
  return sizes;
}

// Writes the token to the memory of the coordinate, and what it reads to `read` [J D]. Returns the
// weights behind those it has used.
template <bool kShipped>
MNEMOSYNE_DEVICE const float* RecallCoordinate(const CoordinateModel& model,
                                               const CoordinateArrays& arrays,
                                               const Segment& segment, size_t i, const float* x,
                                               const float* weights, float* read) {
  const CoordinateSizes sizes = SizesOf<kShipped>(model);
  const size_t features = sizes.map.features, width = sizes.value_width, key = sizes.key_width;
  const size_t joined_width = 2 * key + width;
  float joined[3 * kCoordinateWidthMax];
  const float* const bias = weights + kCoordinateFeatureCount * joined_width;
  MNEMOSYNE_UNROLL_ALL
  for (size_t k = 0; k < joined_width; ++k) {
    float sum = bias[k];
    MNEMOSYNE_UNROLL_ALL
    for (size_t f = 0; f < kCoordinateFeatureCount; ++f) {
      sum = fmaf(x[f], weights[f * joined_width + k], sum);
    }
    joined[k] = sum;
  }
  weights = bias + joined_width;
  BoundInto(joined, key, joined);
  BoundInto(joined + key, key, joined + key);
  const float* const value = joined + 2 * key;

  const size_t tile = i / kCoordinateTile * kCoordinateTile;
  const size_t left = segment.count - tile;
  const size_t tile_width = left < kCoordinateTile ? left : kCoordinateTile;
  const size_t masses = sizes.heads * features, first = segment.offset + tile;
  float* const content = arrays.content + first * masses * width + (i - tile);
  float* const mass = arrays.mass + first * masses + (i - tile);
  size_t projection = features;
  if (sizes.map.shape == FeatureMapShape::kHyperbolic) projection = features / 2;
  if (sizes.map.shape == FeatureMapShape::kElu || sizes.map.shape == FeatureMapShape::kDpfp) {
    projection = 0;
  }
  MNEMOSYNE_UNROLL_ALL
  for (size_t head = 0; head < sizes.heads; ++head) {
    MapWeights map;
    map.w = weights;
    weights += key * PaddedTo16(projection);
    if (sizes.map_bias) {
      map.b = weights;
      weights += features;
    }
    const float discount = model.discounts[head];
    float above[kCoordinateWidthMax] = {}, below = 0;
    MNEMOSYNE_UNROLL_ALL
    for (size_t m = 0; m < features; ++m) {
      const float phi_q = FeatureOf(sizes.map, map, joined, m);
      const float phi_k = FeatureOf(sizes.map, map, joined + key, m);
      const size_t row = head * features + m;
      float& psi = mass[row * tile_width];
      psi = fmaf(discount, psi, phi_k);
      below = fmaf(phi_q, psi, below);
      MNEMOSYNE_UNROLL_ALL
      for (size_t k = 0; k < width; ++k) {
        float& number = content[(row * width + k) * tile_width];
        number = fmaf(phi_k, value[k], discount * number);
        above[k] = fmaf(phi_q, number, above[k]);
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (size_t k = 0; k < width; ++k) read[head * width + k] = QuotientOrZero(above[k], below);
  }
  return weights;
}

// The rest of the step of element `i`, once the means are known.
template <bool kShipped>
MNEMOSYNE_DEVICE void DecideCoordinate(const CoordinateModel& model, const CoordinateTensor& tensor,
                                       const CoordinateArrays& arrays, const Segment& segment,
                                       size_t i, float mean, float factored, const float* told) {
  const CoordinateKnobs& knobs = model.knobs;
  const CoordinateSizes sizes = SizesOf<kShipped>(model);
  const size_t at = segment.offset + i;
  const bool alive = mean > kCoordinateSquareMin;
  const float ratio = fmaxf(fminf(arrays.square[at] / (alive ? mean : 1.0F), kCoordinateRatioMax),
                            kCoordinateRatioMin);
  factored = fmaxf(fminf(factored, kCoordinateRatioMax), kCoordinateRatioMin);
  const float d = arrays.values[at], unit = alive ? sqrtf(mean) : 1.0F;
  const float root = sqrtf(ratio) + knobs.epsilon;
  const float adam = arrays.fast[at] / unit / root, novelty = d / unit / root;
  const float shared = arrays.fast[at] / unit / (sqrtf(factored) + knobs.epsilon);
  const float directions[kCoordinateDirectionCount] = {
      ClipTo(adam, kCoordinateDirectionMax), ClipTo(novelty, kCoordinateDirectionMax),
      ClipTo(arrays.slow[at] / unit / root, kCoordinateDirectionMax),
      ClipTo(shared, kCoordinateDirectionMax)};

  // The features, then what is read of the memory.
  float x[kCoordinateFeatureCount + kCoordinateHeadsMax * kCoordinateWidthMax];
  x[0] = HalfLogOf(novelty * novelty);
  x[1] = d > 0 ? 1.0F : (d < 0 ? -1.0F : 0.0F);
  for (size_t k = 0; k < kCoordinateDirectionCount; ++k) x[2 + k] = 0.5F * directions[k];
  x[6] = ClipTo(novelty * adam, kCoordinateDirectionMax);
  x[7] = alive ? HalfLogOf(ratio) : 0.0F;
  x[8] = alive ? HalfLogOf(factored) : 0.0F;
  x[9] = 0.25F * arrays.log_step[at];
  float* const read = x + kCoordinateFeatureCount;
  const float* const hidden_w =
      RecallCoordinate<kShipped>(model, arrays, segment, i, x, arrays.weights, read);
  const size_t reads = sizes.heads * sizes.value_width, inputs = kCoordinateFeatureCount + reads;
  MNEMOSYNE_UNROLL_ALL
  for (size_t k = 0; k < reads; ++k) read[k] *= knobs.gate_cam;

  const float* const decision_w = hidden_w + inputs * sizes.hidden;
  float decision[kCoordinateDecisionCount];
  MNEMOSYNE_UNROLL_ALL
  for (size_t k = 0; k < kCoordinateDecisionCount; ++k) {
    decision[k] = decision_w[sizes.hidden * kCoordinateDecisionCount + k];
  }
  for (size_t h = 0; h < sizes.hidden; ++h) {
    float sum = told[h];
    MNEMOSYNE_UNROLL_ALL
    for (size_t k = 0; k < inputs; ++k) sum = fmaf(x[k], hidden_w[k * sizes.hidden + h], sum);
    const float hidden = tanhf(sum);
    MNEMOSYNE_UNROLL_ALL
    for (size_t k = 0; k < kCoordinateDecisionCount; ++k) {
      decision[k] = fmaf(hidden, decision_w[h * kCoordinateDecisionCount + k], decision[k]);
    }
  }

  const float before = arrays.log_step[at], low = -knobs.eta_low, high = knobs.eta_high;
  const float first = 2 * decision[0];
  const float bent = first < 0 ? low * tanhf(first / low) : high * tanhf(first / high);
  const float change = knobs.eta_smoothing * (knobs.eta_temper * bent - before);
  const float log_step = before + fminf(change, knobs.eta_rise);
  float sum = adam;
  MNEMOSYNE_UNROLL_ALL
  for (size_t k = 0; k < kCoordinateDirectionCount; ++k) {
    sum = fmaf(knobs.correction * tanhf(decision[1 + k]), directions[k], sum);
  }
  arrays.log_step[at] = log_step;
  arrays.update[at] = -tensor.prior_step * expf(log_step) * sum;
}

}  // namespace mnemosyne::kernels::cuda
