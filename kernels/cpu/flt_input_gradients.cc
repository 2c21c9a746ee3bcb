#include "kernels/cpu/flt_input_gradients.h"

#include <algorithm>

namespace mnemosyne::kernels::cpu {

FltInputGradients::FltInputGradients(const FltBackwardArgs& args, const FltTile& tile,
                                     FltScratch& scratch, FltUnitGradients& sums)
    : args_(args),
      tile_(tile),
      loops_(tile.loops()),
      kernel_(tile.kernel()),
      sizes_(tile.kernel().sizes),
      sums_(sums) {
  const FltPadded& padded = tile.padded();
  const size_t rows = tile.tile_rows();
  feature_gradient_ = scratch.Take(rows, padded.features);
  logit_gradient_ = scratch.Take(rows, padded.projection);
  input_gradient_ = scratch.Take(rows, padded.inputs);
  mask_gradient_ = scratch.Take(rows, Padded(padded.masks));
  for (Matrix* matrix : {&cosines_, &sines_}) *matrix = scratch.Take(rows, Padded(sizes_.waves));
  dots_ = scratch.Take(kFltTileMax);
  ones_ = scratch.Take(padded.features);
  std::fill_n(ones_, padded.features, 1.0F);
  sums.weights.assign(ProjectionCount(sizes_.map) * padded.inputs, 0);
  sums.bias.assign(padded.projection, 0);
  for (auto* sum : {&sums.query_a, &sums.query_b, &sums.key_a, &sums.key_b}) {
    sum->assign(sizes_.waves, 0);
  }
  sums.frequencies.assign(sizes_.waves * sizes_.positions, 0);
}

size_t FltInputGradients::ScratchCount(const FltSizes& sizes, size_t tile_rows) {
  const FltPadded padded = PaddedSizes(sizes);
  const size_t row = padded.features + padded.projection + padded.inputs + Padded(padded.masks) +
                     2 * Padded(sizes.waves);
  return tile_rows * row + kFltTileMax + padded.features;
}

void FltInputGradients::Finish(const FltSpan& span, bool of_keys, const FltSide& side,
                               const TensorOut& to) {
  OfFeatures(span, side);
  if (sizes_.waves > 0) {
    const bool additive = sizes_.form == MaskForm::kAdditive;
    OfWaves(span, of_keys, additive ? input_gradient_ : mask_gradient_, additive ? sizes_.dim : 1);
    for (size_t r = 0; r < span.count && tile_.padded().masks > 1 && !of_keys; ++r) {
      sums_.constant += static_cast<double>(mask_gradient_.data[r * mask_gradient_.stride]);
    }
  }
  if (to.data == nullptr) return;
  sums_.faults.outputs +=
      loops_.scale_and_count(span.count, Padded(sizes_.dim), kernel_.root_scale, input_gradient_);
  tile_.StoreRows(span, input_gradient_, sizes_.dim, to);
}

// Gradients of a side's inputs from those of its features, which are used up, and of W.
void FltInputGradients::OfFeatures(const FltSpan& span, const FltSide& side) {
  const size_t count = span.count, columns = tile_.padded().features;
  for (size_t r = 0; r < count; ++r) {
    // Waves of padding are numbers like others.
    if (tile_.Valid(span, r)) continue;
    std::fill_n(feature_gradient_.data + r * feature_gradient_.stride, columns, 0.0F);
  }
  const FeatureMapShape shape = sizes_.map.shape;
  if (shape == FeatureMapShape::kElu || shape == FeatureMapShape::kDpfp) {
    for (size_t r = 0; r < count; ++r) OfDirectFeatures(side, r);
    return;
  }
  const size_t projections = ProjectionCount(sizes_.map);
  if (IsExponential(sizes_.map.shape)) {
    loops_.multiply_elements(count, columns, feature_gradient_, side.features);
    loops_.row_dots(count, columns, feature_gradient_, ones_, 0, dots_);
  }
  for (size_t r = 0; r < count; ++r) {
    const float* const of_features = feature_gradient_.data + r * feature_gradient_.stride;
    const float* const features = side.features.data + r * side.features.stride;
    float* const to = logit_gradient_.data + r * logit_gradient_.stride;
    for (size_t m = 0; m < projections; ++m) {
      if (shape == FeatureMapShape::kRelu) {
        to[m] = features[m] > sizes_.map.epsilon ? sizes_.map.scale * of_features[m] : 0;
      } else {
        to[m] = of_features[m];
        if (shape == FeatureMapShape::kHyperbolic) to[m] -= of_features[projections + m];
      }
    }
  }
  const size_t set = kernel_.projection_sets > 1 ? span.head : 0;
  const float* const back =
      kernel_.transposed_weights.data() + set * projections * tile_.padded().inputs;
  loops_.multiply({logit_gradient_.data, logit_gradient_.stride, 1, back, tile_.padded().inputs,
                   input_gradient_.data, input_gradient_.stride, count, projections,
                   tile_.padded().inputs, false});
  if (IsExponential(sizes_.map.shape)) {
    for (size_t r = 0; r < count; ++r) dots_[r] = -dots_[r];
    loops_.add_scaled_rows(count, tile_.padded().inputs, dots_, side.x, input_gradient_);
  }
  if (args_.projection_gradient == nullptr) return;
  loops_.multiply({logit_gradient_.data, 1, logit_gradient_.stride, side.x.data, side.x.stride,
                   sums_.weights.data(), tile_.padded().inputs, projections, count,
                   tile_.padded().inputs, true});
  loops_.column_sums(count, tile_.padded().projection, logit_gradient_, sums_.bias.data());
}

// Of the maps that have no projection.
void FltInputGradients::OfDirectFeatures(const FltSide& side, size_t row) {
  const size_t inputs = sizes_.map.inputs;
  const float* const x = side.x.data + row * side.x.stride;
  const float* const of_features = feature_gradient_.data + row * feature_gradient_.stride;
  float* const to = input_gradient_.data + row * input_gradient_.stride;
  if (sizes_.map.shape == FeatureMapShape::kElu) {
    const float* const phi = side.features.data + row * side.features.stride;
    for (size_t i = 0; i < inputs; ++i) to[i] = of_features[i] * (x[i] > 0 ? 1 : phi[i]);
    return;
  }
  float rectified[2 * kFltInputMax], of_rectified[2 * kFltInputMax] = {};
  const size_t count = 2 * inputs;
  for (size_t i = 0; i < inputs; ++i) {
    rectified[i] = std::max(x[i], 0.0F);
    rectified[inputs + i] = std::max(-x[i], 0.0F);
  }
  for (size_t shift = 1; shift <= sizes_.map.features / count; ++shift) {
    for (size_t i = 0; i < count; ++i) {
      const size_t other = (i + count - shift % count) % count;
      const float gradient = of_features[(shift - 1) * count + i];
      of_rectified[i] += gradient * rectified[other];
      of_rectified[other] += gradient * rectified[i];
    }
  }
  for (size_t i = 0; i < inputs; ++i) {
    to[i] = (x[i] > 0 ? of_rectified[i] : 0) - (x[i] < 0 ? of_rectified[inputs + i] : 0);
  }
}

// Adds the gradients of waves, given those of what they came to.
void FltInputGradients::OfWaves(const FltSpan& span, bool of_keys, Matrix gradient, size_t column) {
  const size_t waves = sizes_.waves, at = span.head * Padded(waves), l = sizes_.positions;
  tile_.Waves(span, of_keys, /*unit=*/true, cosines_.data, sines_.data, cosines_.stride);
  const float* const a = (of_keys ? kernel_.key_a : kernel_.query_a).data() + at;
  const float* const b = (of_keys ? kernel_.key_b : kernel_.query_b).data() + at;
  std::vector<double>& sum_a = of_keys ? sums_.key_a : sums_.query_a;
  std::vector<double>& sum_b = of_keys ? sums_.key_b : sums_.query_b;
  const float* const positions = tile_.Positions(span);
  float tile_a[kFltWaveMax] = {}, tile_b[kFltWaveMax] = {};
  float tile_phase[kFltPositionMax][kFltWaveMax] = {};
  for (size_t r = 0; r < span.count; ++r) {
    const float* const first = gradient.data + r * gradient.stride + column;
    const float* const second = first + waves;
    const float* const c = cosines_.data + r * cosines_.stride;
    const float* const s = sines_.data + r * sines_.stride;
    float phase[kFltWaveMax];
    for (size_t m = 0; m < waves; ++m) {
      const float along = first[m] * c[m] + second[m] * s[m];
      const float across = first[m] * s[m] - second[m] * c[m];
      tile_a[m] += along;
      tile_b[m] += across;
      phase[m] = b[m] * along - a[m] * across;
    }
    for (size_t axis = 0; axis < l; ++axis) {
      const float offset = positions[r * l + axis] - span.origin[axis];
      for (size_t m = 0; m < waves; ++m) tile_phase[axis][m] += offset * phase[m];
    }
  }
  for (size_t m = 0; m < waves; ++m) {
    sum_a[m] += static_cast<double>(tile_a[m]);
    sum_b[m] += static_cast<double>(tile_b[m]);
    for (size_t axis = 0; axis < l; ++axis) {
      sums_.frequencies[axis * waves + m] += static_cast<double>(tile_phase[axis][m]);
    }
  }
}

}  // namespace mnemosyne::kernels::cpu
