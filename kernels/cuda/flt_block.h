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

#include "kernels/cuda/flt_block_tile.h"
#include "kernels/cuda/flt_numbers.h"
#include "kernels/cuda/flt_scratch.h"
#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

template <class T, class W>
class FltBlock : FltBlockTile<T, W, FltScratchLayout> {
  using Tile = FltBlockTile<T, W, FltScratchLayout>;

 public:
  // `scratch` has FltScratchLayout::end floats for the call's tiles.
  MNEMOSYNE_DEVICE FltBlock(const FltCall& call, const FltPart& part, float* scratch)
      : Tile(call, call.tile_rows, part, FltScratchLayout(call.shape, call.tile_rows), scratch) {}

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
  using Tile::arrays_, Tile::at_, Tile::Clamps, Tile::counts_, Tile::Exponentiate, Tile::Factors,
      Tile::first_, Tile::ForAll, Tile::Keys, Tile::Load, Tile::LoadKeys, Tile::Maxima, Tile::part_,
      Tile::PartEnd, Tile::Product, Tile::Queries, Tile::rows_, Tile::rows_max_, Tile::scratch_,
      Tile::shape_, Tile::StartTile, Tile::Valid, Tile::Values, Tile::weights_;

  MNEMOSYNE_DEVICE float* Above() const { return scratch_ + at_.above; }
  MNEMOSYNE_DEVICE float* Weights() const { return scratch_ + at_.weights; }
  MNEMOSYNE_DEVICE void LoadMaxima(const float* sums) {
    T::ForEach(shape_.features, [&](size_t m) {
      Maxima()[m] = sums[m];
      Factors()[m] = 1;
    });
  }

  // Raises the maxima to those of the keys [begin, end). Sums are still relative to the old ones
  // then; Factors() makes them so to the new ones.
  MNEMOSYNE_DEVICE void Raise(uint32_t begin, uint32_t end, float* sums) {
    if (!shape_.exponential()) return;
    T::ForEach(shape_.features, [&](size_t m) {
      float most = Maxima()[m];
      for (uint32_t row = begin; row < end; ++row) {
        most = fmaxf(most, Keys()[row * at_.feature_stride + m]);
      }
      Factors()[m] = FlushedExp(Maxima()[m] - most);
      Maxima()[m] = sums[m] = most;
    });
  }

  // Adds the keys [begin, end) to the sums.
  MNEMOSYNE_DEVICE void Add(uint32_t begin, uint32_t end, float* sums) {
    const uint32_t features = shape_.features, width = shape_.values;
    float* const psi = sums + features;
    float* const n = psi + shape_.masks * features;
    const float* const masks = scratch_ + at_.key_masks + begin * shape_.masks;
    const float* const keys = Keys() + begin * at_.feature_stride;
    const float* const values = Values() + begin * at_.value_stride;
    // The last column is that of Psi.
    Product(
        shape_.masks * features, width + 1, end - begin,
        [&](uint32_t r, uint32_t j) {
          const float key = keys[j * at_.feature_stride + r % features];
          return shape_.masks > 1 ? masks[j * shape_.masks + r / features] * key : key;
        },
        [&](uint32_t j, uint32_t c) { return c < width ? values[j * at_.value_stride + c] : 1.0F; },
        [&](uint32_t r, uint32_t c, float sum) {
          float& to = c < width ? n[static_cast<size_t>(r) * width + c] : psi[r];
          to = fmaf(Factors()[r % features], to, sum);
        });
  }

  // Numerators and denominators of the queries [begin, end) from the sums.
  MNEMOSYNE_DEVICE void Read(uint32_t begin, uint32_t end, const float* sums) {
    const uint32_t features = shape_.features, width = shape_.values;
    float* const queries = Queries() + begin * at_.feature_stride;
    float* const stabilizers = scratch_ + at_.stabilizers;
    if (shape_.exponential()) {
      T::ForEach(end - begin, [&](size_t r) {
        float most = 3 * kFltNoKey;
        for (uint32_t m = 0; m < features; ++m) {
          most = fmaxf(most, queries[r * at_.feature_stride + m] + Maxima()[m]);
        }
        stabilizers[begin + r] = most;
      });
      ForAll(end - begin, features, [&](uint32_t r, uint32_t m) {
        float& query = queries[r * at_.feature_stride + m];
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
          [&](uint32_t r, uint32_t m) {
            return queries[r * at_.feature_stride + m] * Factors()[m];
          },
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
    const float* const queries = Queries() + begin * at_.feature_stride;
    const float* const keys = Keys() + begin * at_.feature_stride;
    float* const weights = Weights();
    Product(
        count, count, features,
        [&](uint32_t r, uint32_t m) { return queries[r * at_.feature_stride + m]; },
        [&](uint32_t m, uint32_t j) { return keys[j * at_.feature_stride + m]; },
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
    const float* const values = Values() + begin * at_.value_stride;
    float* const above = Above() + begin * (width + 1);
    Product(
        count, width + 1, count, [&](uint32_t r, uint32_t j) { return weights[r * count + j]; },
        [&](uint32_t j, uint32_t c) { return c < width ? values[j * at_.value_stride + c] : 1.0F; },
        [&](uint32_t r, uint32_t c, float sum) { above[r * (width + 1) + c] += sum; });
  }

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
};

}  // namespace mnemosyne::kernels::cuda
