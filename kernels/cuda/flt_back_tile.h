// The end of the backward pass of FLT attention over a tile's rows: from gradients of the features
// and waves of queries or keys to those of their tensor, the projection and the waves.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_block_tile.h"
#include "kernels/cuda/flt_numbers.h"
#include "kernels/cuda/flt_scratch.h"

namespace mnemosyne::kernels::cuda {

template <class T, class W>
class FltBackTile : protected FltBlockTile<T, W, FltBackScratchLayout> {
  using Tile = FltBlockTile<T, W, FltBackScratchLayout>;

 public:
  // `scratch` has FltBackScratchLayout::end floats. `gradients` are those of the part.
  MNEMOSYNE_DEVICE FltBackTile(const FltBackCall& call, const FltPart& part, float* scratch,
                               float* gradients)
      : Tile(call.forward, call.tile_rows, part,
             FltBackScratchLayout(call.forward.shape, call.tile_rows, call.forward.arrays.causal),
             scratch),
        call_(call),
        gradient_places_(call.forward.shape, call.of_waves, call.of_projection),
        gradients_(gradients) {}

 protected:
  using Tile::arrays_, Tile::at_, Tile::counts_, Tile::first_, Tile::ForAll, Tile::part_,
      Tile::PhaseOf, Tile::PositionOf, Tile::Product, Tile::rows_, Tile::scratch_, Tile::shape_,
      Tile::SumUp, Tile::Valid, Tile::weights_, Tile::X;

  MNEMOSYNE_DEVICE float* Active() const { return scratch_ + at_.active; }
  MNEMOSYNE_DEVICE float* Gradient() const { return scratch_ + at_.gradient; }
  MNEMOSYNE_DEVICE float* MaskGradient() const { return scratch_ + at_.mask_gradient; }

  // From gradients of the features and waves of a side to those of its tensor and of the kernel.
  MNEMOSYNE_DEVICE void Finish(bool of_keys, const float* features, const FltTensor& to) {
    if (shape_.projection > 0) {
      FinishProjection(features);
    } else {
      FinishDirectly(features);
    }
    if (call_.of_waves) FinishWaves(of_keys);
    if (to.data != nullptr) StoreRows(X(), at_.x_stride, shape_.dim, weights_.root_scale, to);
  }

  MNEMOSYNE_DEVICE void StoreRows(const float* from, uint32_t stride, uint32_t width, float scale,
                                  const FltTensor& to) {
    ForAll(rows_, width, [&](uint32_t row, uint32_t column) {
      const float number = scale * from[row * stride + column];
      if (!IsFinite(number)) T::Add(&counts_->outputs, 1);
      WriteElement(arrays_.type, to.data, ElementAt(to, part_, first_ + row) + column, number);
    });
  }

  const FltBackCall& call_;

 private:
  // Gradients of logarithms or products, and those of inputs in the place of the inputs.
  MNEMOSYNE_DEVICE void FinishProjection(const float* features) {
    const uint32_t projection = shape_.projection, inputs = shape_.inputs;
    if (!at_.multiplies_early) {
      ForAll(rows_, shape_.features, [&](uint32_t row, uint32_t m) {
        const uint32_t at = row * at_.feature_stride + m;
        float& gradient = Gradient()[at];
        if (shape_.exponential()) {
          gradient *= features[at];
        } else {
          gradient = features[at] > shape_.epsilon ? shape_.scale * gradient : 0.0F;
        }
      });
    }
    float* const sums = scratch_ + at_.halves;
    SumUp(
        rows_, shape_.features,
        [&](uint32_t row, uint32_t m) { return Gradient()[row * at_.feature_stride + m]; },
        [&](uint32_t row, float sum) { sums[row] = shape_.exponential() ? sum : 0.0F; });
    if (shape_.map == FeatureMapShape::kHyperbolic) {
      ForAll(rows_, projection, [&](uint32_t row, uint32_t p) {
        float* const own = Gradient() + row * at_.feature_stride + p;
        own[0] -= own[projection];
      });
    }
    if (call_.of_projection) AddProjectionGradient();
    const uint32_t set = weights_.projection_sets > 1 ? part_.head : 0;
    const float* const back =
        weights_.transposed + static_cast<size_t>(set) * projection * weights_.transposed_stride;
    Product(rows_, inputs, projection, FltAlong{Gradient(), at_.feature_stride},
            FltDown{back, weights_.transposed_stride}, [&](uint32_t r, uint32_t i, float sum) {
              float& x = X()[r * at_.x_stride + i];
              x = fmaf(-sums[r], x, sum);
            });
  }

  MNEMOSYNE_DEVICE void AddProjectionGradient() {
    float* const weights = gradients_ + gradient_places_.weights;
    Product(shape_.projection, shape_.inputs, rows_, FltDown{Gradient(), at_.feature_stride},
            FltDown{X(), at_.x_stride},
            [&](uint32_t p, uint32_t i, float sum) { weights[p * shape_.inputs + i] += sum; });
    SumUp(
        shape_.projection, rows_,
        [&](uint32_t p, uint32_t row) { return Gradient()[row * at_.feature_stride + p]; },
        [&](uint32_t p, float sum) { gradients_[gradient_places_.bias + p] += sum; });
  }

  // Of the maps that have no projection. Waves of padding are numbers like others, but take no
  // part.
  MNEMOSYNE_DEVICE void FinishDirectly(const float* features) {
    const uint32_t inputs = shape_.inputs;
    if (shape_.map == FeatureMapShape::kElu) {
      ForAll(rows_, inputs, [&](uint32_t row, uint32_t i) {
        const uint32_t at = row * at_.feature_stride + i;
        float& x = X()[row * at_.x_stride + i];
        x = Valid(row) ? Gradient()[at] * (x > 0 ? 1.0F : features[at]) : 0.0F;
      });
      return;
    }
    ForAll(rows_, inputs, [&](uint32_t row, uint32_t i) {
      const float x = X()[row * at_.x_stride + i];
      float sum = 0;
      if (Valid(row) && x > 0) sum = OfRectified(row, i);
      if (Valid(row) && x < 0) sum = -OfRectified(row, inputs + i);
      Active()[row * at_.feature_stride + i] = sum;
    });
    ForAll(rows_, inputs, [&](uint32_t row, uint32_t i) {
      X()[row * at_.x_stride + i] = Active()[row * at_.feature_stride + i];
    });
  }

  // The gradient of number `i` of a row of both halves: of its products with those before and after
  // it.
  MNEMOSYNE_DEVICE float OfRectified(uint32_t row, uint32_t i) const {
    const uint32_t inputs = shape_.inputs, twice = 2 * inputs;
    const float* const x = X() + row * at_.x_stride;
    const float* const gradient = Gradient() + row * at_.feature_stride;
    const auto rectified = [&](uint32_t k) {
      const float number = k < inputs ? x[k] : -x[k - inputs];
      return number > 0 ? number : 0.0F;
    };
    float sum = 0;
    for (uint32_t shift = 1; shift <= shape_.features / twice; ++shift) {
      const float* const own = gradient + (shift - 1) * twice;
      const uint32_t before = (i + twice - shift % twice) % twice, after = (i + shift) % twice;
      sum = fmaf(own[i], rectified(before), sum);
      sum = fmaf(own[after], rectified(after), sum);
    }
    return sum;
  }

  // Adds the gradients of waves, given those of what they came to.
  MNEMOSYNE_DEVICE void FinishWaves(bool of_keys) {
    const bool additive = shape_.form == MaskForm::kAdditive;
    const uint32_t waves = shape_.waves, stride = additive ? at_.x_stride : shape_.masks;
    float* const along = additive ? X() + shape_.dim : MaskGradient() + 1;
    float* const across = along + waves;
    ForAll(rows_, waves, [&](uint32_t row, uint32_t wave) {
      float cosine, sine;
      QuickCosineAndSine(PhaseOf(row, wave), &cosine, &sine);
      float &first = along[row * stride + wave], &second = across[row * stride + wave];
      const float one = first, two = second;
      first = fmaf(one, cosine, two * sine);
      second = fmaf(one, sine, -(two * cosine));
    });
    const size_t head = static_cast<size_t>(part_.head) * shape_.wave_stride;
    const float* const a = (of_keys ? weights_.key_a : weights_.query_a) + head;
    const float* const b = (of_keys ? weights_.key_b : weights_.query_b) + head;
    float* const of_a = gradients_ + (of_keys ? gradient_places_.key_a : gradient_places_.query_a);
    float* const of_b = gradients_ + (of_keys ? gradient_places_.key_b : gradient_places_.query_b);
    const float* const origin = PositionOf(part_.start);
    ForAll(2 + shape_.positions, waves, [&](uint32_t which, uint32_t wave) {
      float sum = 0;
      for (uint32_t row = 0; row < rows_; ++row) {
        const float one = along[row * stride + wave], two = across[row * stride + wave];
        if (which < 2) {
          sum += which == 0 ? one : two;
        } else {
          const float offset = PositionOf(first_ + row)[which - 2] - origin[which - 2];
          sum = fmaf(offset, fmaf(b[wave], one, -(a[wave] * two)), sum);
        }
      }
      float* const to = which == 0 ? of_a
                        : which == 1
                            ? of_b
                            : gradients_ + gradient_places_.frequencies + (which - 2) * waves;
      to[wave] += sum;
    });
    if (additive || of_keys) return;
    T::ForEach(1, [&](size_t) {
      float sum = 0;
      for (uint32_t row = 0; row < rows_; ++row) sum += MaskGradient()[row * shape_.masks];
      gradients_[gradient_places_.constant] += sum;
    });
  }

  const FltGradientPlaces gradient_places_;
  float* const gradients_;
};

}  // namespace mnemosyne::kernels::cuda
