// FLT attention over the rows of a part as the program of a block of threads, for all sizes,
// feature maps and forms: tiles of rows in the block's scratch, sums over keys in the device's
// memory.
//
// Written over the threads of `T`: T::ForEach(count, f) calls f(i) for all i below `count`, spread
// over the threads, and returns when all have returned; T::Add(p, n) adds to a number that blocks
// share. Every sum is formed by one thread in order, so that bits do not depend on threads.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_numbers.h"
#include "kernels/cuda/flt_scratch.h"
#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

// How far a feature's logarithm may rise above the running maximum within a part of a causal tile:
// exp(-40) of a row's own sum is still a number with all its digits.
inline constexpr float kFltRise = 40;

template <class T>
class FltBlock {
 public:
  // `scratch` has FltScratchLayout::end floats for the call's tiles.
  MNEMOSYNE_DEVICE FltBlock(const FltCall& call, const FltPart& part, float* scratch)
      : shape_(call.shape),
        weights_(call.weights),
        arrays_(call.arrays),
        part_(part),
        at_(call.shape, call.tile_rows),
        rows_max_(call.tile_rows),
        scratch_(scratch),
        counts_(call.counts + part.batch * call.shape.heads + part.head) {
    if (shape_.waves > 0) MeasureOrigin();
  }

  // Sets `sums` to those over the part's keys. Faults are counted if `count`.
  MNEMOSYNE_DEVICE void AddKeys(float* sums, bool count) {
    T::ForEach(shape_.SumCount(), [&](size_t i) {
      sums[i] = shape_.exponential() && i < shape_.features ? kFltNoKey : 0.0F;
    });
    LoadMaxima(sums);
    for (uint32_t first = 0; first < part_.count; first += rows_max_) {
      StartTile(first);
      LoadKeys(count);
      Raise(0, rows_, sums);
      Exponentiate(0, rows_);
      Add(0, rows_, sums);
    }
  }

  // Answers the part's queries from `sums`.
  MNEMOSYNE_DEVICE void AnswerAll(const float* sums) {
    LoadMaxima(sums);
    for (uint32_t first = 0; first < part_.count; first += rows_max_) {
      StartTile(first);
      Load(arrays_.q, false);
      Read(0, rows_, sums);
      Finish();
    }
  }

  // Answers each query from `sums` and the keys up to it, and adds the keys to `sums`.
  MNEMOSYNE_DEVICE void AnswerCausal(float* sums) {
    LoadMaxima(sums);
    for (uint32_t first = 0; first < part_.count; first += rows_max_) {
      StartTile(first);
      LoadKeys(true);
      Load(arrays_.q, false);
      for (uint32_t begin = 0; begin < rows_;) {
        const uint32_t end = PartEnd(begin);
        Raise(begin, end, sums);
        Exponentiate(begin, end);
        Read(begin, end, sums);
        ReadWithin(begin, end);
        Add(begin, end, sums);
        begin = end;
      }
      Finish();
    }
  }

 private:
  static constexpr uint32_t kSide = 4;  // Of the square of a product that a thread forms.

  MNEMOSYNE_DEVICE float* X() const { return scratch_ + at_.x; }
  MNEMOSYNE_DEVICE float* Keys() const { return scratch_ + at_.keys; }
  MNEMOSYNE_DEVICE float* Queries() const { return scratch_ + at_.queries; }
  MNEMOSYNE_DEVICE float* Values() const { return scratch_ + at_.values; }
  MNEMOSYNE_DEVICE float* Above() const { return scratch_ + at_.above; }
  MNEMOSYNE_DEVICE float* Weights() const { return scratch_ + at_.weights; }
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

  // Calls f(i, row, column) for all of `rows` times `columns`.
  template <typename F>
  static MNEMOSYNE_DEVICE void ForAll(uint32_t rows, uint32_t columns, const F& f) {
    T::ForEach(static_cast<size_t>(rows) * columns, [&](size_t index) {
      const auto i = static_cast<uint32_t>(index);
      f(i / columns, i % columns);
    });
  }

  // Calls store(row, column, sum over i of a(row, i) b(i, column)). A thread forms a square whose
  // rows and columns are spread, so that neighbours read neighbours.
  template <typename A, typename B, typename Store>
  static MNEMOSYNE_DEVICE void Product(uint32_t rows, uint32_t columns, uint32_t inner, const A& a,
                                       const B& b, const Store& store) {
    const uint32_t down = (rows + kSide - 1) / kSide, along = (columns + kSide - 1) / kSide;
    ForAll(down, along, [&](uint32_t row0, uint32_t column0) {
      float sums[kSide][kSide] = {};
      uint32_t row[kSide], column[kSide];
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < kSide; ++k) {
        const uint32_t r = row0 + k * down, c = column0 + k * along;
        row[k] = r < rows ? r : row0;
        column[k] = c < columns ? c : column0;
      }
      for (uint32_t i = 0; i < inner; ++i) {
        float left[kSide], right[kSide];
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t k = 0; k < kSide; ++k) {
          left[k] = a(row[k], i);
          right[k] = b(i, column[k]);
        }
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t r = 0; r < kSide; ++r) {
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t c = 0; c < kSide; ++c) sums[r][c] = fmaf(left[r], right[c], sums[r][c]);
        }
      }
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t r = 0; r < kSide; ++r) {
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t c = 0; c < kSide; ++c) {
          if (row0 + r * down < rows && column0 + c * along < columns) {
            store(row[r], column[c], sums[r][c]);
          }
        }
      }
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

  MNEMOSYNE_DEVICE void LoadMaxima(const float* sums) {
    T::ForEach(shape_.features, [&](size_t m) {
      Maxima()[m] = sums[m];
      Factors()[m] = 1;
    });
  }

  MNEMOSYNE_DEVICE void LoadKeys(bool count) {
    LoadRows(arrays_.v, shape_.values, 1, Values(), shape_.values,
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
    LoadRows(tensor, shape_.dim, weights_.root_scale, X(), shape_.inputs, count ? faults : nullptr);
    if (shape_.waves > 0) LoadWaves(of_keys);
    float* const features = of_keys ? Keys() : Queries();
    if (shape_.projection > 0) {
      const uint32_t set = weights_.projection_sets > 1 ? part_.head : 0;
      const float* const w =
          weights_.weights + static_cast<size_t>(set) * shape_.inputs * shape_.columns;
      Product(
          rows_, shape_.projection, shape_.inputs,
          [&](uint32_t r, uint32_t i) { return X()[r * shape_.inputs + i]; },
          [&](uint32_t i, uint32_t c) { return w[i * shape_.columns + c]; },
          [&](uint32_t r, uint32_t c, float sum) { features[r * shape_.features + c] = sum; });
    }
    if (shape_.exponential()) {
      FinishLogarithms(features);
    } else {
      FinishFeatures(features);
    }
  }

  // Appends waves to X(), or writes those of the multiplicative form, [row, F].
  MNEMOSYNE_DEVICE void LoadWaves(bool of_keys) {
    const bool additive = shape_.appends_waves();
    float* const masks = scratch_ + (of_keys ? at_.key_masks : at_.query_masks);
    float* const to = additive ? X() + shape_.dim : masks + 1;
    const uint32_t stride = additive ? shape_.inputs : shape_.masks;
    const size_t head = static_cast<size_t>(part_.head) * shape_.wave_stride;
    const float* const a = (of_keys ? weights_.key_a : weights_.query_a) + head;
    const float* const b = (of_keys ? weights_.key_b : weights_.query_b) + head;
    ForAll(rows_, shape_.waves, [&](uint32_t row, uint32_t wave) {
      const float turns = TurnsAt(shape_, Frequencies(), PositionOf(first_ + row), wave);
      float cosine, sine;
      CosineAndSine(DropTurns(turns - scratch_[at_.origin + wave]), &cosine, &sine);
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
    T::ForEach(rows_, [&](size_t row) {
      float square = 0;
      for (uint32_t i = 0; i < shape_.inputs; ++i) {
        const float x = X()[row * shape_.inputs + i];
        square = fmaf(x, x, square);
      }
      halves[row] = 0.5F * square;
    });
    const uint32_t set = weights_.projection_sets > 1 ? part_.head : 0;
    const float* const bias =
        weights_.bias == nullptr ? nullptr : weights_.bias + set * shape_.columns;
    ForAll(rows_, shape_.projection, [&](uint32_t row, uint32_t column) {
      float* const own = features + row * shape_.features;
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
      float& feature = features[row * shape_.features + m];
      const float* const x = X() + row * shape_.inputs;
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
    const float* const base = Keys() + base_row * shape_.features;
    float* const rises = scratch_ + at_.rises;
    T::ForEach(rows_, [&](size_t row) {
      bool too_far = false;
      for (uint32_t m = 0; m < shape_.features && row > base_row; ++m) {
        too_far |= Keys()[row * shape_.features + m] - fmaxf(Maxima()[m], base[m]) > kFltRise;
      }
      rises[row] = too_far ? 1.0F : 0.0F;
    });
    uint32_t end = base_row + 1;
    while (end < rows_ && rises[end] == 0) ++end;
    return end;
  }

  // Raises the maxima to those of the keys [begin, end). Sums are still relative to the old ones
  // then; Factors() makes them so to the new ones.
  MNEMOSYNE_DEVICE void Raise(uint32_t begin, uint32_t end, float* sums) {
    if (!shape_.exponential()) return;
    T::ForEach(shape_.features, [&](size_t m) {
      float most = Maxima()[m];
      for (uint32_t row = begin; row < end; ++row) {
        most = fmaxf(most, Keys()[row * shape_.features + m]);
      }
      Factors()[m] = FlushedExp(Maxima()[m] - most);
      Maxima()[m] = sums[m] = most;
    });
  }

  // Logarithms of keys become features relative to the maxima.
  MNEMOSYNE_DEVICE void Exponentiate(uint32_t begin, uint32_t end) {
    if (!shape_.exponential()) return;
    ForAll(end - begin, shape_.features, [&](uint32_t r, uint32_t m) {
      float& feature = Keys()[(begin + r) * shape_.features + m];
      feature = Valid(begin + r) ? FlushedExp(feature - Maxima()[m]) : 0.0F;
    });
  }

  // Adds the keys [begin, end) to the sums.
  MNEMOSYNE_DEVICE void Add(uint32_t begin, uint32_t end, float* sums) {
    const uint32_t features = shape_.features, width = shape_.values;
    float* const psi = sums + features;
    float* const n = psi + shape_.masks * features;
    const float* const masks = scratch_ + at_.key_masks + begin * shape_.masks;
    const float* const keys = Keys() + begin * features;
    const float* const values = Values() + begin * width;
    // The last column is that of Psi.
    Product(
        shape_.masks * features, width + 1, end - begin,
        [&](uint32_t r, uint32_t j) {
          const float key = keys[j * features + r % features];
          return shape_.masks > 1 ? masks[j * shape_.masks + r / features] * key : key;
        },
        [&](uint32_t j, uint32_t c) { return c < width ? values[j * width + c] : 1.0F; },
        [&](uint32_t r, uint32_t c, float sum) {
          float& to = c < width ? n[static_cast<size_t>(r) * width + c] : psi[r];
          to = fmaf(Factors()[r % features], to, sum);
        });
  }

  // Numerators and denominators of the queries [begin, end) from the sums.
  MNEMOSYNE_DEVICE void Read(uint32_t begin, uint32_t end, const float* sums) {
    const uint32_t features = shape_.features, width = shape_.values;
    float* const queries = Queries() + begin * features;
    float* const stabilizers = scratch_ + at_.stabilizers;
    if (shape_.exponential()) {
      T::ForEach(end - begin, [&](size_t r) {
        float most = 3 * kFltNoKey;
        for (uint32_t m = 0; m < features; ++m) {
          most = fmaxf(most, queries[r * features + m] + Maxima()[m]);
        }
        stabilizers[begin + r] = most;
      });
      ForAll(end - begin, features, [&](uint32_t r, uint32_t m) {
        float& query = queries[r * features + m];
        query = FlushedExp(query + Maxima()[m] - stabilizers[begin + r]);
      });
    }
    const float* const psi = sums + features;
    const float* const n = psi + shape_.masks * features;
    const float* const masks = scratch_ + at_.query_masks + begin * shape_.masks;
    float* const above = Above() + begin * (width + 1);
    const bool clamps = Clamps();
    for (uint32_t f = 0; f < shape_.masks; ++f) {
      const float* const own_psi = psi + f * features;
      const float* const own_n = n + static_cast<size_t>(f) * features * width;
      Product(
          end - begin, width + 1, features,
          [&](uint32_t r, uint32_t m) { return queries[r * features + m] * Factors()[m]; },
          [&](uint32_t m, uint32_t c) { return c < width ? own_n[m * width + c] : own_psi[m]; },
          [&](uint32_t r, uint32_t c, float sum) {
            float& to = above[r * (width + 1) + c];
            if (clamps && f == 0 && c == width) scratch_[at_.plain + begin + r] = sum;
            if (shape_.masks > 1) sum *= masks[r * shape_.masks + f];
            to = f == 0 ? sum : to + sum;
          });
    }
  }

  // Adds what the queries [begin, end) read of the keys among them, up to their own.
  MNEMOSYNE_DEVICE void ReadWithin(uint32_t begin, uint32_t end) {
    const uint32_t count = end - begin, features = shape_.features, width = shape_.values;
    const float* const queries = Queries() + begin * features;
    const float* const keys = Keys() + begin * features;
    float* const weights = Weights();
    Product(
        count, count, features, [&](uint32_t r, uint32_t m) { return queries[r * features + m]; },
        [&](uint32_t m, uint32_t j) { return keys[j * features + m]; },
        [&](uint32_t r, uint32_t j, float sum) { weights[r * count + j] = j <= r ? sum : 0.0F; });
    if (Clamps()) {
      T::ForEach(count, [&](size_t r) {
        float& plain = scratch_[at_.plain + begin + r];
        for (uint32_t j = 0; j <= r; ++j) plain += weights[r * count + j];
      });
    }
    if (shape_.masks > 1) {
      const float* const query_masks = scratch_ + at_.query_masks + begin * shape_.masks;
      const float* const key_masks = scratch_ + at_.key_masks + begin * shape_.masks;
      Product(
          count, count, shape_.masks,
          [&](uint32_t r, uint32_t f) { return query_masks[r * shape_.masks + f]; },
          [&](uint32_t f, uint32_t j) { return key_masks[j * shape_.masks + f]; },
          [&](uint32_t r, uint32_t j, float sum) { weights[r * count + j] *= sum; });
    }
    const float* const values = Values() + begin * width;
    float* const above = Above() + begin * (width + 1);
    Product(
        count, width + 1, count, [&](uint32_t r, uint32_t j) { return weights[r * count + j]; },
        [&](uint32_t j, uint32_t c) { return c < width ? values[j * width + c] : 1.0F; },
        [&](uint32_t r, uint32_t c, float sum) { above[r * (width + 1) + c] += sum; });
  }

  MNEMOSYNE_DEVICE bool Clamps() const { return weights_.floors[part_.head] > 0; }

  // Divides, and writes the rows of the tile.
  MNEMOSYNE_DEVICE void Finish() {
    const uint32_t width = shape_.values;
    const float floor = weights_.floors[part_.head];
    const float least = shape_.exponential() ? 0.0F : kDenominatorMin;
    float* const inverses = scratch_ + at_.halves;
    const float* const stabilizers = scratch_ + at_.stabilizers;
    T::ForEach(rows_, [&](size_t row) {
      float below = Above()[row * (width + 1) + width];
      bool clamped = false;
      if (floor > 0 && below < floor * scratch_[at_.plain + row]) {
        below = floor * scratch_[at_.plain + row];
        clamped = below > 0;
        if (clamped) T::Add(&counts_->clamped, 1);
      }
      if (below != below) T::Add(&counts_->outputs, 1);
      if (!(Valid(row) && below > least)) below = 0;
      inverses[row] = below > 0 ? 1 / below : 0.0F;
      if (arrays_.normalizers == nullptr) return;
      float* const to =
          arrays_.normalizers +
          2 * ((static_cast<size_t>(part_.batch) * shape_.heads + part_.head) * arrays_.length +
               first_ + row);
      to[0] = shape_.exponential() ? stabilizers[row] : 0.0F;
      to[1] = clamped ? -below : below;
    });
    ForAll(rows_, width, [&](uint32_t row, uint32_t column) {
      const float number = Above()[row * (width + 1) + column] * inverses[row];
      if (!IsFinite(number)) T::Add(&counts_->outputs, 1);
      WriteElement(arrays_.type, arrays_.out.data,
                   ElementAt(arrays_.out, part_, first_ + row) + column, number);
    });
  }

  const FltShape& shape_;
  const FltWeights& weights_;
  const FltArrays& arrays_;
  const FltPart& part_;
  const FltScratchLayout at_;
  const uint32_t rows_max_;
  float* const scratch_;
  FltCounts* const counts_;
  size_t first_ = 0;   // Row of the tile.
  uint32_t rows_ = 0;  // Of the tile.
};

}  // namespace mnemosyne::kernels::cuda
