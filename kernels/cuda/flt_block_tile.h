// A tile of rows of one head of FLT attention, in the scratch of a block of threads: what the
// forward and the backward pass share, for all sizes, feature maps and forms.
//
// Written over the lanes of `W` and the threads of `T`: T::ForEach(count, f) calls f(i) for all i
// below `count`, spread over the threads, and returns when all have returned; T::Add(p, n) adds to
// a number that blocks share. Every sum is formed by one thread in order, so that bits do not
// depend on threads.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_numbers.h"
#include "kernels/cuda/flt_product.h"
#include "kernels/cuda/flt_scratch.h"
#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

// How far a feature's logarithm may rise above the running maximum within a part of a causal tile:
// exp(-40) of a row's own sum is still a number with all its digits.
inline constexpr float kFltRise = 40;

template <class T, class W, class Places>
class FltBlockTile {
 protected:
  // Tiles have `rows` rows. `scratch` has the floats of `at`.
  MNEMOSYNE_DEVICE FltBlockTile(const FltCall& call, uint32_t rows, const FltPart& part,
                                const Places& at, float* scratch)
      : shape_(call.shape),
        weights_(call.weights),
        arrays_(call.arrays),
        part_(part),
        at_(at),
        rows_max_(rows),
        scratch_(scratch),
        counts_(call.counts + part.batch * call.shape.heads + part.head) {
    if (shape_.waves > 0) MeasureOrigin();
  }

  MNEMOSYNE_DEVICE float* X() const { return scratch_ + at_.x; }
  MNEMOSYNE_DEVICE float* Keys() const { return scratch_ + at_.keys; }
  MNEMOSYNE_DEVICE float* Queries() const { return scratch_ + at_.queries; }
  MNEMOSYNE_DEVICE float* Values() const { return scratch_ + at_.values; }
  MNEMOSYNE_DEVICE float* Maxima() const { return scratch_ + at_.maxima; }
  MNEMOSYNE_DEVICE float* Factors() const { return scratch_ + at_.factors; }

  MNEMOSYNE_DEVICE void StartTile(uint32_t first) {
    first_ = part_.first + first;
    rows_ = part_.count - first < rows_max_ ? part_.count - first : rows_max_;
  }

  MNEMOSYNE_DEVICE bool Valid(size_t row) const {
    return arrays_.mask == nullptr ||
           arrays_.mask[part_.batch * arrays_.length + first_ + row] != 0;
  }

  MNEMOSYNE_DEVICE const float* PositionOf(size_t row) const {
    const size_t entry = arrays_.positions_per_batch ? part_.batch : 0;
    return arrays_.positions + (entry * arrays_.length + row) * shape_.positions;
  }

  // Calls f(row, column) for all of `rows` times `columns`.
  template <typename F>
  static MNEMOSYNE_DEVICE void ForAll(uint32_t rows, uint32_t columns, const F& f) {
    T::ForRows(rows, columns, f);
  }

  // See FltProduct.
  template <typename A, typename B, typename Store>
  static MNEMOSYNE_DEVICE void Product(uint32_t rows, uint32_t columns, uint32_t inner, const A& a,
                                       const B& b, const Store& store) {
    FltProduct<T, W>::Run(rows, columns, inner, a, b, store);
  }

  // Calls store(i, sum over j below `inner` of f(i, j)) for all i below `count`. Few sums are
  // formed by several threads each.
  template <typename F, typename Store>
  MNEMOSYNE_DEVICE void SumUp(uint32_t count, uint32_t inner, const F& f, const Store& store) {
    if (count > at_.partial_count) {
      T::ForEach(count, [&](size_t index) {
        const auto i = static_cast<uint32_t>(index);
        float sum = 0;
        for (uint32_t j = 0; j < inner; ++j) sum += f(i, j);
        store(i, sum);
      });
      return;
    }
    float* const partial = scratch_ + at_.partial;
    const uint32_t each = (inner + kPartials - 1) / kPartials;
    T::ForEach(kPartials * size_t{count}, [&](size_t index) {
      const uint32_t part = static_cast<uint32_t>(index) / count,
                     i = static_cast<uint32_t>(index) % count;
      const uint32_t end = (part + 1) * each < inner ? (part + 1) * each : inner;
      float sum = 0;
      for (uint32_t j = part * each; j < end; ++j) sum += f(i, j);
      partial[part * count + i] = sum;
    });
    T::ForEach(count, [&](size_t index) {
      const auto i = static_cast<uint32_t>(index);
      float sum = 0;
      for (uint32_t part = 0; part < kPartials; ++part) sum += partial[part * count + i];
      store(i, sum);
    });
  }

  // The turns of the sequence's first position, or of the stream's.
  MNEMOSYNE_DEVICE void MeasureOrigin() {
    const float* origin = PositionOf(part_.start);
    if (arrays_.state != nullptr) {
      const size_t count = shape_.SumCount() + shape_.positions;
      const float* const state =
          arrays_.state + (part_.batch * shape_.heads + part_.head) * count + shape_.SumCount();
      if (*state > kFltNoKey) origin = state;
    }
    T::ForEach(shape_.waves, [&](size_t wave) {
      scratch_[at_.origin + wave] =
          TurnsAt(shape_, Frequencies(), origin, static_cast<uint32_t>(wave));
    });
  }

  MNEMOSYNE_DEVICE const float* Frequencies() const {
    return weights_.frequencies +
           static_cast<size_t>(part_.head) * shape_.positions * shape_.wave_stride;
  }

  MNEMOSYNE_DEVICE bool Clamps() const { return weights_.floors[part_.head] > 0; }

  MNEMOSYNE_DEVICE void LoadKeys(bool count) {
    LoadRows(arrays_.v, shape_.values, 1, Values(), at_.value_stride,
             count ? &counts_->values : nullptr);
    Load(arrays_.k, true, count);
  }

  // Numbers of a tensor, 0 in padding.
  MNEMOSYNE_DEVICE void LoadRows(const FltTensor& tensor, uint32_t width, float scale, float* to,
                                 uint32_t stride, uint32_t* faults) {
    ForAll(rows_, width, [&](uint32_t row, uint32_t column) {
      float x = 0;
      if (Valid(row)) {
        x = ReadElement(arrays_.type, tensor.data, ElementAt(tensor, part_, first_ + row) + column);
        if (!IsFinite(x) && faults != nullptr) T::Add(faults, 1);
      }
      to[row * stride + column] = scale * x;
    });
  }

  // Features of queries or keys, logarithms for exponential maps, to Queries() or Keys(). Those of
  // padding are kFltNoKey, or 0 for other maps.
  MNEMOSYNE_DEVICE void Load(const FltTensor& tensor, bool of_keys, bool count = true) {
    uint32_t* const faults = of_keys ? &counts_->keys : &counts_->queries;
    LoadRows(tensor, shape_.dim, weights_.root_scale, X(), at_.x_stride, count ? faults : nullptr);
    if (shape_.waves > 0) LoadWaves(of_keys);
    float* const features = of_keys ? Keys() : Queries();
    if (shape_.projection > 0) {
      const uint32_t set = weights_.projection_sets > 1 ? part_.head : 0;
      const float* const w =
          weights_.weights + static_cast<size_t>(set) * shape_.inputs * shape_.columns;
      Product(rows_, shape_.projection, shape_.inputs, FltAlong{X(), at_.x_stride},
              FltDown{w, shape_.columns}, [&](uint32_t r, uint32_t c, float sum) {
                features[r * at_.feature_stride + c] = sum;
              });
    }
    if (shape_.exponential()) {
      FinishLogarithms(features);
    } else {
      FinishFeatures(features);
    }
  }

  // The turns of a row's phase, between -1/2 and 1/2.
  MNEMOSYNE_DEVICE float PhaseOf(uint32_t row, uint32_t wave) const {
    const float turns = TurnsAt(shape_, Frequencies(), PositionOf(first_ + row), wave);
    return DropTurns(turns - scratch_[at_.origin + wave]);
  }

  // Appends waves to X(), or writes those of the multiplicative form, [row, F].
  MNEMOSYNE_DEVICE void LoadWaves(bool of_keys) {
    const bool additive = shape_.appends_waves();
    float* const masks = scratch_ + (of_keys ? at_.key_masks : at_.query_masks);
    float* const to = additive ? X() + shape_.dim : masks + 1;
    const uint32_t stride = additive ? at_.x_stride : shape_.masks;
    const size_t head = static_cast<size_t>(part_.head) * shape_.wave_stride;
    const float* const a = (of_keys ? weights_.key_a : weights_.query_a) + head;
    const float* const b = (of_keys ? weights_.key_b : weights_.query_b) + head;
    ForAll(rows_, shape_.waves, [&](uint32_t row, uint32_t wave) {
      float cosine, sine;
      CosineAndSine(PhaseOf(row, wave), &cosine, &sine);
      to[row * stride + wave] = fmaf(a[wave], cosine, b[wave] * sine);
      to[row * stride + shape_.waves + wave] = fmaf(a[wave], sine, -(b[wave] * cosine));
      if (!additive && wave == 0) {
        masks[row * stride] = of_keys ? 1 : weights_.constants[part_.head];
      }
    });
  }

  // Products with the projection become logarithms.
  MNEMOSYNE_DEVICE void FinishLogarithms(float* features) {
    float* const halves = scratch_ + at_.halves;
    SumUp(
        rows_, shape_.inputs,
        [&](uint32_t row, uint32_t i) {
          const float x = X()[row * at_.x_stride + i];
          return x * x;
        },
        [&](uint32_t row, float square) { halves[row] = 0.5F * square; });
    const uint32_t set = weights_.projection_sets > 1 ? part_.head : 0;
    const float* const bias =
        weights_.bias == nullptr ? nullptr : weights_.bias + set * shape_.columns;
    ForAll(rows_, shape_.projection, [&](uint32_t row, uint32_t column) {
      float* const own = features + row * at_.feature_stride;
      const bool valid = Valid(row);
      const float product = own[column];
      float log = product - halves[row];
      if (bias != nullptr) log += bias[column];
      own[column] = valid ? log : kFltNoKey;
      if (shape_.map != FeatureMapShape::kHyperbolic) return;
      own[shape_.projection + column] = valid ? -product - halves[row] : kFltNoKey;
    });
  }

  // The maps that are no exponentials.
  MNEMOSYNE_DEVICE void FinishFeatures(float* features) {
    ForAll(rows_, shape_.features, [&](uint32_t row, uint32_t m) {
      float& feature = features[row * at_.feature_stride + m];
      const float* const x = X() + row * at_.x_stride;
      const uint32_t twice = 2 * shape_.inputs;
      const auto rectified = [&](uint32_t i) {
        const float number = i < shape_.inputs ? x[i] : -x[i - shape_.inputs];
        return number > 0 ? number : 0.0F;
      };
      if (!Valid(row)) {
        feature = 0;
      } else if (shape_.map == FeatureMapShape::kRelu) {
        feature = fmaf(shape_.scale, feature > 0 ? feature : 0.0F, shape_.epsilon);
      } else if (shape_.map == FeatureMapShape::kElu) {
        feature = x[m] > 0 ? x[m] + 1 : expf(x[m]);
      } else {
        const uint32_t shift = m / twice + 1, at = m % twice;
        feature = rectified(at) * rectified((at + twice - shift % twice) % twice);
      }
    });
  }

  // The end of the rows from `begin` on that can be one part of a causal tile.
  MNEMOSYNE_DEVICE uint32_t PartEnd(uint32_t begin) {
    if (!shape_.exponential()) return rows_;
    uint32_t base_row = begin;
    if (Maxima()[0] <= kFltNoKey / 2) {
      // Rows before the first key have nothing to lose.
      while (base_row < rows_ && !Valid(base_row)) ++base_row;
      if (base_row == rows_) return rows_;
    }
    const float* const base = Keys() + base_row * at_.feature_stride;
    float* const rises = scratch_ + at_.rises;
    T::ForEach(rows_, [&](size_t row) {
      bool too_far = false;
      for (uint32_t m = 0; m < shape_.features && row > base_row; ++m) {
        too_far |= Keys()[row * at_.feature_stride + m] - fmaxf(Maxima()[m], base[m]) > kFltRise;
      }
      rises[row] = too_far ? 1.0F : 0.0F;
    });
    uint32_t end = base_row + 1;
    while (end < rows_ && rises[end] == 0) ++end;
    return end;
  }

  // Logarithms of keys become features relative to the maxima.
  MNEMOSYNE_DEVICE void Exponentiate(uint32_t begin, uint32_t end) {
    if (!shape_.exponential()) return;
    ForAll(end - begin, shape_.features, [&](uint32_t r, uint32_t m) {
      float& feature = Keys()[(begin + r) * at_.feature_stride + m];
      feature = Valid(begin + r) ? FlushedExp(feature - Maxima()[m]) : 0.0F;
    });
  }

  const FltShape& shape_;
  const FltWeights& weights_;
  const FltArrays& arrays_;
  const FltPart& part_;
  const Places at_;
  const uint32_t rows_max_;
  float* const scratch_;
  FltCounts* const counts_;
  size_t first_ = 0;   // Row of the tile.
  uint32_t rows_ = 0;  // Of the tile.
};

}  // namespace mnemosyne::kernels::cuda
