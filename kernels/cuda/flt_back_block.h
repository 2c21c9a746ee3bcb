// The backward pass of FLT attention over the rows of a part as the program of a block of threads,
// for all sizes, feature maps and forms. What queries get is read from sums over the keys that they
// saw, what keys and values get from sums over the queries that saw them; see docs/flt.md.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_back_tile.h"
#include "kernels/cuda/flt_numbers.h"
#include "kernels/cuda/flt_scratch.h"

namespace mnemosyne::kernels::cuda {

template <class T, class W>
class FltBackBlock : FltBackTile<T, W> {
  using Tile = FltBackTile<T, W>;

 public:
  using Tile::Tile;

  // Gradients of the part's queries from the sums over the keys that they saw, and, to `mine`, the
  // sums over these queries. Causal sums over keys are those before the part, and are used up.
  MNEMOSYNE_DEVICE void RunQueries(float* of_keys, float* mine) {
    const Sums keys = KeySums(of_keys), queries = QuerySums(mine, false);
    Fetch(of_keys, keys);
    Clear(queries);
    for (uint32_t first = 0; first < part_.count; first += rows_max_) {
      StartTile(first);
      if (arrays_.causal) {
        LoadKeys(true);
        LoadQueries(true);
        for (uint32_t begin = 0; begin < rows_;) {
          const uint32_t end = PartEnd(begin);
          Raise(Keys(), begin, end, keys);
          Exponentiate(begin, end);
          ReadForQueries(begin, end, keys);
          Pair(begin, end, QueryFeatures());
          AddPairsToQueries(begin, end);
          Add(Keys(), KeyMasks(), Values(), nullptr, nullptr, begin, end, keys);
          begin = end;
        }
      } else {
        LoadQueries(true);
        ReadForQueries(0, rows_, keys);
      }
      Finish(false, QueryFeatures(), call_.q_gradient);
      TakeInQueries(queries);
    }
    T::ForEach(shape_.features, [&](size_t m) { mine[m] = queries.maxima[m]; });
  }

  // Gradients of the part's keys and values from the sums over the queries that saw them, of
  // causal parts those after it.
  MNEMOSYNE_DEVICE void RunKeys(float* of_queries) {
    const Sums queries = QuerySums(of_queries, at_.keeps_sums);
    Fetch(of_queries, queries);
    const uint32_t tiles = (part_.count + rows_max_ - 1) / rows_max_;
    for (uint32_t i = 0; i < tiles; ++i) {
      StartTile((arrays_.causal ? tiles - 1 - i : i) * rows_max_);
      if (arrays_.causal) {
        LoadQueries(false);
        LoadKeys(false);
        for (uint32_t end = rows_; end > 0;) {
          const uint32_t begin = PartBegin(end, queries);
          Raise(Queries(), begin, end, queries);
          Activate(begin, end, queries.maxima, -1);
          ReadForKeys(begin, end, queries);
          Pair(begin, end, QueryFeatures());
          AddPairsToKeys(begin, end, queries);
          Add(QueryFeatures(), QueryMasks(), Upstream(), Weights(), nullptr, begin, end, queries);
          AddClamped(nullptr, begin, end, queries);
          end = begin;
        }
      } else {
        // The quick program, which adds up keys then, does not count what is wrong with them.
        LoadKeys(call_.forward.quick);
        ReadForKeys(0, rows_, queries);
      }
      Finish(true, Keys(), call_.k_gradient);
      if (call_.v_gradient.data != nullptr) {
        StoreRows(Values(), at_.value_stride, shape_.values, 1, call_.v_gradient);
      }
    }
  }

 private:
  using Tile::Active, Tile::arrays_, Tile::at_, Tile::call_, Tile::Clamps, Tile::counts_,
      Tile::Exponentiate, Tile::Factors, Tile::Finish, Tile::first_, Tile::ForAll, Tile::Gradient,
      Tile::Keys, Tile::Load, Tile::LoadKeys, Tile::MaskGradient, Tile::Maxima, Tile::part_,
      Tile::PartEnd, Tile::Product, Tile::Queries, Tile::rows_, Tile::rows_max_, Tile::scratch_,
      Tile::shape_, Tile::StartTile, Tile::StoreRows, Tile::SumUp, Tile::Valid, Tile::Values,
      Tile::weights_, Tile::X;

  // Sums over keys, with weights of 1, or over queries, with weights of e and values g^.
  struct Sums {
    float* maxima;    // [M]
    float* weights;   // [F, M]
    float* values;    // [F, M], rows of `stride`.
    uint32_t stride;  // At least Dv.
    float* clamped;   // [M]: sums of features times e of clamped rows; null of keys.
  };

  MNEMOSYNE_DEVICE float* Upstream() const { return scratch_ + at_.upstream; }
  MNEMOSYNE_DEVICE float* Weights() const { return scratch_ + at_.weights; }
  MNEMOSYNE_DEVICE float* ClampWeights() const { return scratch_ + at_.clamp_weights; }
  MNEMOSYNE_DEVICE float* KeyMasks() const { return scratch_ + at_.key_masks; }
  MNEMOSYNE_DEVICE float* QueryMasks() const { return scratch_ + at_.query_masks; }
  MNEMOSYNE_DEVICE float* Pairs() const { return scratch_ + at_.pairs; }
  MNEMOSYNE_DEVICE float* KernelGradient() const { return scratch_ + at_.kernel_gradient; }
  MNEMOSYNE_DEVICE float* PairGradient() const { return scratch_ + at_.pair_gradient; }
  // Of queries, relative to the maxima that Activate was told.
  MNEMOSYNE_DEVICE float* QueryFeatures() const {
    return shape_.exponential() ? Active() : Queries();
  }

  MNEMOSYNE_DEVICE Sums At(float* maxima, bool keeps, float* numbers, bool of_queries) const {
    const uint32_t count = shape_.masks * shape_.features;
    if (keeps) {
      float* const kept = scratch_ + at_.sums;
      float* const values = kept + count;
      return {maxima, kept, values, at_.value_stride,
              of_queries ? values + count * at_.value_stride : nullptr};
    }
    float* const weights = numbers + shape_.features;
    return {maxima, weights, weights + count, shape_.values,
            of_queries ? numbers + shape_.SumCount() : nullptr};
  }
  // Those that are read are kept in the scratch, if they are small.
  MNEMOSYNE_DEVICE Sums KeySums(float* numbers) const {
    return At(Maxima(), at_.keeps_sums, numbers, false);
  }
  MNEMOSYNE_DEVICE Sums QuerySums(float* numbers, bool keeps) const {
    return At(scratch_ + at_.query_maxima, keeps, numbers, true);
  }

  // Brings sums from the device's memory to where they are kept.
  MNEMOSYNE_DEVICE void Fetch(const float* from, const Sums& to) {
    const uint32_t features = shape_.features, count = shape_.masks * features;
    T::ForEach(features, [&](size_t m) {
      to.maxima[m] = from[m];
      if (at_.keeps_sums && to.clamped != nullptr) to.clamped[m] = from[shape_.SumCount() + m];
    });
    if (!at_.keeps_sums) return;
    T::ForEach(count, [&](size_t i) { to.weights[i] = from[features + i]; });
    ForAll(count, shape_.values, [&](uint32_t row, uint32_t column) {
      to.values[row * to.stride + column] = from[features + count + row * shape_.values + column];
    });
  }

  MNEMOSYNE_DEVICE void Clear(const Sums& sums) {
    const uint32_t count = shape_.masks * shape_.features;
    T::ForEach(shape_.features, [&](size_t m) {
      sums.maxima[m] = shape_.exponential() ? kFltNoKey : 0.0F;
      sums.clamped[m] = 0;
    });
    T::ForEach(count, [&](size_t i) { sums.weights[i] = 0; });
    ForAll(count, shape_.values,
           [&](uint32_t row, uint32_t column) { sums.values[row * sums.stride + column] = 0; });
  }

  // Queries, as logarithms relative to what the forward pass took off, with g^ in Upstream(), e in
  // Weights(), and e of clamped rows apart. Rows that answered nothing have no part in any maximum.
  MNEMOSYNE_DEVICE void LoadQueries(bool count) {
    Load(arrays_.q, false, count);
    ForAll(rows_, shape_.values, [&](uint32_t row, uint32_t column) {
      float product = 0;
      if (Valid(row)) {
        const float g = ReadAt(call_.out_gradient, row, column),
                    out = ReadAt(arrays_.out, row, column);
        if (count && !IsFinite(g)) T::Add(&counts_->gradients, 1);
        if (count && !IsFinite(out)) T::Add(&counts_->outputs, 1);
        product = g * out;
      }
      Upstream()[row * at_.value_stride + column] = product;
    });
    const float floor = weights_.floors[part_.head];
    const auto product_at = [&](uint32_t row, uint32_t d) {
      return Upstream()[row * at_.value_stride + d];
    };
    SumUp(rows_, shape_.values, product_at, [&](uint32_t row, float dot) {
      const float* const own =
          arrays_.normalizers +
          2 * ((static_cast<size_t>(part_.batch) * shape_.heads + part_.head) * arrays_.length +
               first_ + row);
      const float below = fabsf(own[1]);
      const bool counts = Valid(row) && below > 0, clamped = own[1] < 0;
      const float inverse = counts ? 1 / below : 0.0F, weight = -dot * inverse;
      scratch_[at_.inverses + row] = inverse;
      scratch_[at_.stabilizers + row] = own[0];
      Weights()[row] = clamped ? 0.0F : weight;
      ClampWeights()[row] = clamped ? weight * floor : 0.0F;
    });
    ForAll(rows_, shape_.values, [&](uint32_t row, uint32_t column) {
      const float inverse = scratch_[at_.inverses + row];
      Upstream()[row * at_.value_stride + column] =
          inverse > 0 ? ReadAt(call_.out_gradient, row, column) * inverse : 0.0F;
    });
    if (!shape_.exponential()) return;
    ForAll(rows_, shape_.features, [&](uint32_t row, uint32_t m) {
      float& log = Queries()[row * at_.feature_stride + m];
      log = scratch_[at_.inverses + row] > 0 ? log - scratch_[at_.stabilizers + row] : kFltNoKey;
    });
  }

  MNEMOSYNE_DEVICE float ReadAt(const FltTensor& tensor, uint32_t row, uint32_t column) const {
    return ReadElement(arrays_.type, tensor.data, ElementAt(tensor, part_, first_ + row) + column);
  }

  // Sets Active() of the queries [begin, end) to features relative to maxima of queries, or, with a
  // sign of 1, to features that are multiplied with those of keys relative to these maxima.
  MNEMOSYNE_DEVICE void Activate(uint32_t begin, uint32_t end, const float* maxima, float sign) {
    if (!shape_.exponential()) return;
    ForAll(end - begin, shape_.features, [&](uint32_t r, uint32_t m) {
      const uint32_t at = (begin + r) * at_.feature_stride + m;
      Active()[at] = FlushedExp(fmaf(sign, maxima[m], Queries()[at]));
    });
  }

  // The start of the rows up to `end` that can be one part: as PartEnd, against the order.
  MNEMOSYNE_DEVICE uint32_t PartBegin(uint32_t end, const Sums& queries) {
    if (!shape_.exponential()) return 0;
    const float* const base = Queries() + (end - 1) * at_.feature_stride;
    float* const rises = scratch_ + at_.rises;
    T::ForEach(end - 1, [&](size_t row) {
      bool too_far = false;
      for (uint32_t m = 0; m < shape_.features; ++m) {
        too_far |=
            Queries()[row * at_.feature_stride + m] - fmaxf(queries.maxima[m], base[m]) > kFltRise;
      }
      rises[row] = too_far ? 1.0F : 0.0F;
    });
    uint32_t begin = end - 1;
    while (begin > 0 && rises[begin - 1] == 0) --begin;
    return begin;
  }

  // Raises maxima to those of the rows [begin, end); Factors() is what this makes of the sums.
  MNEMOSYNE_DEVICE void RaiseMaxima(const float* logs, uint32_t begin, uint32_t end,
                                    const Sums& sums) {
    T::ForEach(shape_.features, [&](size_t m) {
      float most = sums.maxima[m];
      for (uint32_t row = begin; row < end; ++row) {
        most = fmaxf(most, logs[row * at_.feature_stride + m]);
      }
      Factors()[m] = FlushedExp(sums.maxima[m] - most);
      sums.maxima[m] = most;
    });
  }

  // The same, and scales the sums.
  MNEMOSYNE_DEVICE void Raise(const float* logs, uint32_t begin, uint32_t end, const Sums& sums) {
    if (!shape_.exponential()) return;
    const uint32_t features = shape_.features;
    RaiseMaxima(logs, begin, end, sums);
    T::ForEach(features, [&](size_t m) {
      for (uint32_t f = 0; f < shape_.masks; ++f) sums.weights[f * features + m] *= Factors()[m];
      if (sums.clamped != nullptr) sums.clamped[m] *= Factors()[m];
    });
    ForAll(shape_.masks * features, shape_.values, [&](uint32_t row, uint32_t column) {
      sums.values[row * sums.stride + column] *= Factors()[row % features];
    });
  }

  // Adds rows [begin, end) of a side: features, numbers of its waves, values, and weights or null.
  // Sums are multiplied with `factors` [M] before, unless it is null.
  MNEMOSYNE_DEVICE void Add(const float* features, const float* masks, const float* values,
                            const float* weights, const float* factors, uint32_t begin,
                            uint32_t end, const Sums& sums) {
    const uint32_t count = shape_.features, each = shape_.masks;
    const auto feature_at = [&](uint32_t r, uint32_t j) {
      if (each == 1) return features[(begin + j) * at_.feature_stride + r];
      return masks[(begin + j) * each + r / count] *
             features[(begin + j) * at_.feature_stride + r % count];
    };
    const auto add = [&](float& to, uint32_t r, float sum) {
      to = factors == nullptr ? to + sum : fmaf(factors[r % count], to, sum);
    };
    const FltDown right = {values + begin * at_.value_stride, at_.value_stride};
    const auto store = [&](uint32_t r, uint32_t c, float sum) {
      add(sums.values[r * sums.stride + c], r, sum);
    };
    if (each == 1) {
      const FltDown left = {features + begin * at_.feature_stride, at_.feature_stride};
      Product(count, shape_.values, end - begin, left, right, store);
    } else {
      Product(each * count, shape_.values, end - begin, feature_at, right, store);
    }
    SumUp(
        each * count, end - begin,
        [&](uint32_t r, uint32_t j) {
          return feature_at(r, j) * (weights == nullptr ? 1.0F : weights[begin + j]);
        },
        [&](uint32_t r, float sum) { add(sums.weights[r], r, sum); });
  }

  MNEMOSYNE_DEVICE void AddClamped(const float* factors, uint32_t begin, uint32_t end,
                                   const Sums& queries) {
    if (!Clamps()) return;
    SumUp(
        shape_.features, end - begin,
        [&](uint32_t m, uint32_t j) {
          return QueryFeatures()[(begin + j) * at_.feature_stride + m] * ClampWeights()[begin + j];
        },
        [&](uint32_t m, float sum) {
          const float before = queries.clamped[m];
          queries.clamped[m] = factors == nullptr ? before + sum : fmaf(factors[m], before, sum);
        });
  }

  // Adds the tile's queries to the sums over those of the part.
  MNEMOSYNE_DEVICE void TakeInQueries(const Sums& queries) {
    const float* factors = nullptr;
    if (shape_.exponential()) {
      RaiseMaxima(Queries(), 0, rows_, queries);
      factors = Factors();
    }
    Activate(0, rows_, queries.maxima, -1);
    Add(QueryFeatures(), QueryMasks(), Upstream(), Weights(), factors, 0, rows_, queries);
    AddClamped(factors, 0, rows_, queries);
  }

  // Sets gradients of the features and waves of rows [begin, end) of a side from sums over the
  // other one.
  MNEMOSYNE_DEVICE void ReadFor(const float* features, const float* masks, const float* values,
                                const float* weights, uint32_t begin, uint32_t end,
                                const Sums& sums) {
    const uint32_t count = shape_.features, each = shape_.masks;
    float* const part = scratch_ + at_.part;
    for (uint32_t f = 0; f < each; ++f) {
      Product(end - begin, count, shape_.values,
              FltAlong{values + begin * at_.value_stride, at_.value_stride},
              FltAlong{sums.values + size_t{f} * count * sums.stride, sums.stride},
              [&](uint32_t r, uint32_t m, float sum) {
                const uint32_t row = begin + r, at = row * at_.feature_stride + m;
                const float weight = weights == nullptr ? 1.0F : weights[row];
                const float number = fmaf(weight, sums.weights[f * count + m], sum);
                if (each == 1) {
                  Gradient()[at] =
                      at_.multiplies_early ? number * FeatureAt(features, at, m, sums) : number;
                  return;
                }
                part[at] = number;
                const float mask = masks[row * each + f];
                Gradient()[at] = f == 0 ? mask * number : fmaf(mask, number, Gradient()[at]);
              });
      if (each == 1) return;
      T::ForEach(end - begin, [&](size_t r) {
        const size_t row = begin + r;
        float sum = 0;
        for (uint32_t m = 0; m < count; ++m) {
          sum =
              fmaf(features[row * at_.feature_stride + m], part[row * at_.feature_stride + m], sum);
        }
        MaskGradient()[row * each + f] = sum;
      });
    }
  }

  // A feature of a query, which is still a logarithm, or of a key.
  MNEMOSYNE_DEVICE float FeatureAt(const float* features, uint32_t at, uint32_t m,
                                   const Sums& sums) const {
    return sums.clamped == nullptr ? FlushedExp(features[at] + sums.maxima[m]) : features[at];
  }

  MNEMOSYNE_DEVICE void ReadForQueries(uint32_t begin, uint32_t end, const Sums& keys) {
    if (!at_.multiplies_early) Activate(begin, end, keys.maxima, 1);
    ReadFor(QueryFeatures(), QueryMasks(), Upstream(), Weights(), begin, end, keys);
    if (!Clamps()) return;
    // A clamped denominator is the plain one times the floor, without a mask.
    ForAll(end - begin, shape_.features, [&](uint32_t r, uint32_t m) {
      float& number = Gradient()[(begin + r) * at_.feature_stride + m];
      number = fmaf(ClampWeights()[begin + r], keys.weights[m], number);
    });
  }

  // Keys become features that are multiplied with those of queries relative to their maxima.
  MNEMOSYNE_DEVICE void ReadForKeys(uint32_t begin, uint32_t end, const Sums& queries) {
    if (shape_.exponential()) {
      ForAll(end - begin, shape_.features, [&](uint32_t r, uint32_t m) {
        float& feature = Keys()[(begin + r) * at_.feature_stride + m];
        feature = Valid(begin + r) ? FlushedExp(feature + queries.maxima[m]) : 0.0F;
      });
    }
    ReadFor(Keys(), KeyMasks(), Values(), nullptr, begin, end, queries);
    if (Clamps()) {
      ForAll(end - begin, shape_.features, [&](uint32_t r, uint32_t m) {
        Gradient()[(begin + r) * at_.feature_stride + m] += queries.clamped[m];
      });
    }
    if (!arrays_.causal) ReadForValues(begin, end, queries);
  }

  // Values become their gradients, from queries that are not in the part.
  MNEMOSYNE_DEVICE void ReadForValues(uint32_t begin, uint32_t end, const Sums& queries) {
    const uint32_t count = shape_.features, each = shape_.masks;
    const FltDown sums = {queries.values, queries.stride};
    const auto store = [&](uint32_t r, uint32_t c, float sum) {
      Values()[(begin + r) * at_.value_stride + c] = sum;
    };
    const float* const keys = Keys() + begin * at_.feature_stride;
    if (each == 1) {
      Product(end - begin, shape_.values, count, FltAlong{keys, at_.feature_stride}, sums, store);
      return;
    }
    Product(
        end - begin, shape_.values, each * count,
        [&](uint32_t r, uint32_t i) {
          return KeyMasks()[(begin + r) * each + i / count] *
                 keys[r * at_.feature_stride + i % count];
        },
        sums, store);
  }

  // Weights among rows [begin, end) and their gradients, of a query's row and a key's not after it:
  // Pairs() = K T, KernelGradient() that of K, PairGradient() that of T.
  MNEMOSYNE_DEVICE void Pair(uint32_t begin, uint32_t end, const float* queries) {
    const uint32_t count = end - begin, stride = at_.pair_stride, each = shape_.masks;
    Product(
        count, count, shape_.features,
        FltAlong{queries + begin * at_.feature_stride, at_.feature_stride},
        FltAlong{Keys() + begin * at_.feature_stride, at_.feature_stride},
        [&](uint32_t r, uint32_t j, float sum) { Pairs()[r * stride + j] = j <= r ? sum : 0.0F; });
    Product(count, count, shape_.values,
            FltAlong{Upstream() + begin * at_.value_stride, at_.value_stride},
            FltAlong{Values() + begin * at_.value_stride, at_.value_stride},
            [&](uint32_t r, uint32_t j, float sum) {
              KernelGradient()[r * stride + j] = j <= r ? sum + Weights()[begin + r] : 0.0F;
            });
    if (each == 1) return;
    Product(
        count, count, each,
        [&](uint32_t r, uint32_t f) { return QueryMasks()[(begin + r) * each + f]; },
        [&](uint32_t f, uint32_t j) { return KeyMasks()[(begin + j) * each + f]; },
        [&](uint32_t r, uint32_t j, float mask) {
          const uint32_t at = r * stride + j;
          const float pair = Pairs()[at], gradient = KernelGradient()[at];
          PairGradient()[at] = gradient * pair;
          Pairs()[at] = pair * mask;
          KernelGradient()[at] = j <= r ? fmaf(gradient, mask, ClampWeights()[begin + r]) : 0.0F;
        });
  }

  MNEMOSYNE_DEVICE void AddPairsToQueries(uint32_t begin, uint32_t end) {
    const uint32_t count = end - begin, stride = at_.pair_stride, each = shape_.masks;
    Product(count, shape_.features, count, FltAlong{KernelGradient(), stride},
            FltDown{Keys() + begin * at_.feature_stride, at_.feature_stride},
            [&](uint32_t r, uint32_t m, float sum) {
              Gradient()[(begin + r) * at_.feature_stride + m] += sum;
            });
    if (each == 1) return;
    Product(
        count, each, count, [&](uint32_t r, uint32_t j) { return PairGradient()[r * stride + j]; },
        [&](uint32_t j, uint32_t f) { return KeyMasks()[(begin + j) * each + f]; },
        [&](uint32_t r, uint32_t f, float sum) { MaskGradient()[(begin + r) * each + f] += sum; });
  }

  MNEMOSYNE_DEVICE void AddPairsToKeys(uint32_t begin, uint32_t end, const Sums& queries) {
    const uint32_t count = end - begin, stride = at_.pair_stride, each = shape_.masks;
    ReadForValues(begin, end, queries);
    Product(count, shape_.features, count, FltDown{KernelGradient(), stride},
            FltDown{QueryFeatures() + begin * at_.feature_stride, at_.feature_stride},
            [&](uint32_t j, uint32_t m, float sum) {
              Gradient()[(begin + j) * at_.feature_stride + m] += sum;
            });
    Product(count, shape_.values, count, FltDown{Pairs(), stride},
            FltDown{Upstream() + begin * at_.value_stride, at_.value_stride},
            [&](uint32_t j, uint32_t c, float sum) {
              Values()[(begin + j) * at_.value_stride + c] += sum;
            });
    if (each == 1) return;
    Product(
        count, each, count, [&](uint32_t j, uint32_t r) { return PairGradient()[r * stride + j]; },
        [&](uint32_t r, uint32_t f) { return QueryMasks()[(begin + r) * each + f]; },
        [&](uint32_t j, uint32_t f, float sum) { MaskGradient()[(begin + j) * each + f] += sum; });
  }
};

}  // namespace mnemosyne::kernels::cuda
