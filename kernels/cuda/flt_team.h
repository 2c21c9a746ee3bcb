// FLT attention over the rows of a part as the program of a team of warps on tensor cores, for
// exponential maps without a multiplicative mask. A warp keeps the sums of 16 features in
// registers, and answers 16 queries of a tile.
//
// Teams call the parts of a tile in the order in which they stand in flt_team_part.h, all warps one
// before any of them the next. Written in the lanes of `W`; see warp_functions.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_block.h"
#include "kernels/cuda/flt_fragments.h"
#include "kernels/cuda/flt_team_stage.h"

namespace mnemosyne::kernels::cuda {

template <class T, class W, class Sizes>
class FltTeamWarp {
  using F = typename W::Floats;
  using Fragments = FltFragments<W, Sizes::kParts>;
  using A = typename Fragments::A;
  using B = typename Fragments::B;

 public:
  MNEMOSYNE_DEVICE FltTeamWarp(const FltTeamSpace<Sizes>& space, uint32_t warp)
      : space_(space), warp_(warp) {}

  MNEMOSYNE_DEVICE void StageKeys(uint32_t first, uint32_t rows, bool count) const {
    FltRowStage<T, W, Sizes>(space_, true).Stage(warp_, first, rows, count);
  }
  MNEMOSYNE_DEVICE void StageQueries(uint32_t first, uint32_t rows) const {
    FltRowStage<T, W, Sizes>(space_, false).Stage(warp_, first, rows, true);
  }

  // Sums over no keys.
  MNEMOSYNE_DEVICE void Clear() {
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      maxima_[h] = F(kFltNoKey);
      psi_[h] = F(0.0F);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int v = 0; v < kValueTiles; ++v) {
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) n_[v][k] = F(0.0F);
    }
  }

  // The warp's features of sums in the device's memory.
  MNEMOSYNE_DEVICE void LoadSums(const float* sums) {
    Clear();
    ForSums([&](auto here, int h, uint32_t m) {
      here(maxima_[h]) = sums[m];
      if (here.lane % 4 == 0) here(psi_[h]) = sums[Features() + m];
    });
    ForN([&](F& n, auto here, uint32_t m, uint32_t d) {
      here(n) = sums[2 * Features() + m * ValueCount() + d];
    });
  }
  MNEMOSYNE_DEVICE void StoreSums(float* sums) {
    const F psi[2] = {SumOfFour(psi_[0]), SumOfFour(psi_[1])};
    ForSums([&](auto here, int h, uint32_t m) {
      if (here.lane % 4 != 0) return;
      sums[m] = here(maxima_[h]);
      sums[Features() + m] = here(psi[h]);
    });
    ForN([&](F& n, auto here, uint32_t m, uint32_t d) {
      sums[2 * Features() + m * ValueCount() + d] = here(n);
    });
  }

  // Logarithms of the warp's features of the staged keys.
  MNEMOSYNE_DEVICE void MeasureKeys() {
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kKeyTiles; ++j) {
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) logs_[j][k] = F(0.0F);
    }
    for (uint32_t pair = 0; pair < space_.InputPairs(); pair += 8) {
      const A a = A::Load(space_.Weights(), 16 * warp_, pair);
      MNEMOSYNE_UNROLL_ALL
      for (int j = 0; j < kKeyTiles; ++j) {
        const B b = B::Load(space_.X(), static_cast<uint32_t>(8 * j), pair);
        Fragments::Multiply(a, b, logs_[j]);
      }
    }
    const float* const halves = space_.Floats(space_.at.halves);
    const float* const bias = space_.Floats(space_.at.bias);
    ForKeys([&](auto here, F& log, int h, uint32_t j) {
      const float own_bias = bias[FeatureOf(here.lane, h)];
      here(log) = halves[j] >= 0 ? here(log) - halves[j] + own_bias : kFltNoKey;
    });
  }

  // Leaves in the team's memory where a part of a causal tile that begins at `begin` has to end, as
  // far as the warp's features go; see FltBlock::PartEnd. After MeasureKeys and StageQueries.
  MNEMOSYNE_DEVICE void FindEnd(uint32_t begin, uint32_t rows) {
    const float* const halves = space_.Floats(space_.at.halves);
    float* const bases = space_.Floats(space_.at.base);
    uint32_t base_row = begin;
    if (space_.Floats(space_.at.maxima)[0] <= kFltNoKey / 2) {
      while (base_row < rows && halves[base_row] < 0) ++base_row;
    }
    ForKeys([&](auto here, F& log, int h, uint32_t j) {
      if (j == base_row) bases[FeatureOf(here.lane, h)] = here(log);
    });
    W::Sync();
    F end(static_cast<float>(rows));
    ForKeys([&](auto here, F& log, int h, uint32_t j) {
      if (j <= base_row || j >= rows) return;
      const float most = fmaxf(here(maxima_[h]), bases[FeatureOf(here.lane, h)]);
      if (here(log) - most > kFltRise) here(end) = fminf(here(end), static_cast<float>(j));
    });
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 16; mask > 0; mask /= 2) end = W::Min(end, W::Exchange(end, mask));
    W::Each([&](auto here) {
      if (here.lane == 0) space_.memory[space_.at.ends + warp_] = static_cast<uint32_t>(here(end));
    });
  }

  // The least end that the warps have found.
  MNEMOSYNE_DEVICE uint32_t End() const {
    uint32_t end = space_.memory[space_.at.ends];
    for (uint32_t w = 1; w < Sizes::kWarps; ++w) {
      const uint32_t other = space_.memory[space_.at.ends + w];
      end = other < end ? other : end;
    }
    return end;
  }

  // Raises the maxima to those of the keys [begin, end), to which all sums are relative then.
  MNEMOSYNE_DEVICE void Raise(uint32_t begin, uint32_t end) {
    F most[2] = {maxima_[0], maxima_[1]};
    ForKeys([&](auto here, F& log, int h, uint32_t j) {
      if (j >= begin && j < end) here(most[h]) = fmaxf(here(most[h]), here(log));
    });
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      most[h] = MostOfFour(most[h]);
      F factor(0.0F);
      W::Each([&](auto here) { here(factor) = FlushedExp(here(maxima_[h]) - here(most[h])); });
      maxima_[h] = most[h];
      psi_[h] = psi_[h] * factor;
      MNEMOSYNE_UNROLL_ALL
      for (int v = 0; v < kValueTiles; ++v) {
        n_[v][2 * h] = n_[v][2 * h] * factor;
        n_[v][2 * h + 1] = n_[v][2 * h + 1] * factor;
      }
    }
  }

  // Shows the queries of the team the sums as they are, and the features of the keys [begin, end).
  MNEMOSYNE_DEVICE void Publish(uint32_t begin, uint32_t end) {
    float* const maxima = space_.Floats(space_.at.maxima);
    float* const psi = space_.Floats(space_.at.psi);
    const F sums[2] = {SumOfFour(psi_[0]), SumOfFour(psi_[1])};
    W::Each([&](auto here) {
      if (here.lane % 4 != 0) return;
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        maxima[FeatureOf(here.lane, h)] = here(maxima_[h]);
        psi[FeatureOf(here.lane, h)] = here(sums[h]);
      }
    });
    const FltWords n = space_.N(), keys = space_.Keys();
    MNEMOSYNE_UNROLL_ALL
    for (int v = 0; v < kValueTiles; ++v) {
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          const auto d = static_cast<uint32_t>(8 * v + 2 * (here.lane % 4) + k % 2);
          n.template StoreOne<Sizes::kParts>(d, FeatureOf(here.lane, k / 2), here(n_[v][k]));
        }
      });
    }
    ForKeys([&](auto here, F& log, int h, uint32_t j) {
      keys.template StoreOne<Sizes::kParts>(j, FeatureOf(here.lane, h),
                                            Feature(here, log, h, j, begin, end));
    });
  }

  // Adds the keys [begin, end) to the sums.
  MNEMOSYNE_DEVICE void Add(uint32_t begin, uint32_t end) {
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kKeyTiles; j += 2) {
      F phi[2][4];
      MNEMOSYNE_UNROLL_ALL
      for (int side = 0; side < 2; ++side) {
        W::Each([&](auto here) {
          MNEMOSYNE_UNROLL_ALL
          for (int k = 0; k < 4; ++k) {
            const float own =
                Feature(here, logs_[j + side][k], k / 2, KeyOf(here.lane, j + side, k), begin, end);
            here(phi[side][k]) = own;
            here(psi_[k / 2]) += own;
          }
        });
      }
      const A a = A::From(phi[0], phi[1]);
      MNEMOSYNE_UNROLL_ALL
      for (int v = 0; v < kValueTiles; ++v) {
        const B b =
            B::Load(space_.Values(), static_cast<uint32_t>(8 * v), static_cast<uint32_t>(4 * j));
        Fragments::Multiply(a, b, n_[v]);
      }
    }
  }

  // Answers the staged queries of the warp within [begin, end) from what is published, and, if
  // causal, from the published keys up to each. `first` is the row of the tile.
  MNEMOSYNE_DEVICE void Answer(uint32_t first, uint32_t begin, uint32_t end, bool causal) {
    const uint32_t own = QueryRow(0);
    if (own >= end || own + 16 <= begin) return;
    F logs[kFeatureTiles][4];
    F stabilizers[2], below[2] = {F(0.0F), F(0.0F)};
    MeasureQueries(logs, stabilizers, below);
    A phi[kFeatureTiles / 2];
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < kFeatureTiles; m += 2) phi[m / 2] = A::From(logs[m], logs[m + 1]);
    F out[kOwnTiles][4];
    MNEMOSYNE_UNROLL_ALL
    for (int v = 0; v < kOwnTiles; ++v) {
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) out[v][k] = F(0.0F);
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < kFeatureTiles / 2; ++m) {
        const B b = B::Load(space_.N(), OwnValue(v), static_cast<uint32_t>(8 * m));
        Fragments::Multiply(phi[m], b, out[v]);
      }
    }
    for (uint32_t keys = begin / 16 * 16; causal && keys <= own; keys += 16) {
      ReadKeys(phi, keys, out, below);
    }
    Finish(first, begin, end, stabilizers, below, out);
  }

 private:
  static constexpr int kKeyTiles = Sizes::kRows / 8, kValueTiles = Sizes::kValues / 8,
                       kFeatureTiles = Sizes::kFeatures / 8,
                       kOwnTiles = kValueTiles / Sizes::kGroups;  // Of a warp's answers.

  MNEMOSYNE_DEVICE uint32_t Features() const { return space_.call.shape.features; }
  MNEMOSYNE_DEVICE uint32_t ValueCount() const { return space_.call.shape.values; }

  // The feature of row h of a lane's two rows of a tile of keys.
  MNEMOSYNE_DEVICE uint32_t FeatureOf(int lane, int h) const {
    return 16 * warp_ + static_cast<uint32_t>(lane / 4 + 8 * h);
  }
  // Query i of the warp's 16, and the first column of tile v of its answers.
  MNEMOSYNE_DEVICE uint32_t QueryRow(int i) const {
    return 16 * (warp_ % Sizes::kRowWarps) + static_cast<uint32_t>(i);
  }
  MNEMOSYNE_DEVICE uint32_t OwnValue(int v) const {
    return 8 * (warp_ / Sizes::kRowWarps * kOwnTiles + static_cast<uint32_t>(v));
  }
  // The key of a lane's number k of tile j.
  static MNEMOSYNE_DEVICE uint32_t KeyOf(int lane, int j, int k) {
    return static_cast<uint32_t>(8 * j + 2 * (lane % 4) + k % 2);
  }

  // Calls f(here, log, h, key) for all logarithms of keys.
  template <typename Function>
  MNEMOSYNE_DEVICE void ForKeys(const Function& f) {
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kKeyTiles; ++j) {
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) f(here, logs_[j][k], k / 2, KeyOf(here.lane, j, k));
      });
    }
  }
  // Calls f(here, h, feature) for the warp's features that count.
  template <typename Function>
  MNEMOSYNE_DEVICE void ForSums(const Function& f) {
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        const uint32_t m = FeatureOf(here.lane, h);
        if (m < Features()) f(here, h, m);
      }
    });
  }
  // Calls f(number, here, feature, column) for the warp's numbers of N that count.
  template <typename Function>
  MNEMOSYNE_DEVICE void ForN(const Function& f) {
    MNEMOSYNE_UNROLL_ALL
    for (int v = 0; v < kValueTiles; ++v) {
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          const uint32_t m = FeatureOf(here.lane, k / 2);
          const auto d = static_cast<uint32_t>(8 * v + 2 * (here.lane % 4) + k % 2);
          if (m < Features() && d < ValueCount()) f(n_[v][k], here, m, d);
        }
      });
    }
  }

  // The feature of a key relative to the maxima; 0 of padding and outside [begin, end).
  template <typename Here>
  MNEMOSYNE_DEVICE float Feature(const Here& here, F& log, int h, uint32_t j, uint32_t begin,
                                 uint32_t end) {
    const bool counts = j >= begin && j < end && here(log) > kFltNoKey / 2;
    return counts ? FlushedExp(here(log) - here(maxima_[h])) : 0.0F;
  }

  // Over the four lanes that share rows of results.
  static MNEMOSYNE_DEVICE F SumOfFour(F x) {
    x = x + W::Exchange(x, 1);
    return x + W::Exchange(x, 2);
  }
  static MNEMOSYNE_DEVICE F MostOfFour(F x) {
    x = W::Max(x, W::Exchange(x, 1));
    return W::Max(x, W::Exchange(x, 2));
  }

  // Features of the warp's queries, relative to their stabilizers, and their products with Psi,
  // of which each of four lanes has a part.
  MNEMOSYNE_DEVICE void MeasureQueries(F (&logs)[kFeatureTiles][4], F (&stabilizers)[2],
                                       F (&below)[2]) const {
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < kFeatureTiles; ++m) {
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) logs[m][k] = F(0.0F);
    }
    for (uint32_t pair = 0; pair < space_.InputPairs(); pair += 8) {
      const A a = A::Load(space_.X(), QueryRow(0), pair);
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < kFeatureTiles; ++m) {
        const B b = B::Load(space_.Weights(), static_cast<uint32_t>(8 * m), pair);
        Fragments::Multiply(a, b, logs[m]);
      }
    }
    const float* const halves = space_.Floats(space_.at.halves);
    const float* const bias = space_.Floats(space_.at.bias);
    const float* const maxima = space_.Floats(space_.at.maxima);
    const float* const psi = space_.Floats(space_.at.psi);
    const auto feature = [](int lane, int m, int k) { return 8 * m + 2 * (lane % 4) + k % 2; };
    stabilizers[0] = stabilizers[1] = F(3 * kFltNoKey);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < kFeatureTiles; ++m) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          const int at = feature(here.lane, m, k);
          float& log = here(logs[m][k]);
          log = log - halves[QueryRow(here.lane / 4 + k / 2 * 8)] + bias[at] + maxima[at];
          here(stabilizers[k / 2]) = fmaxf(here(stabilizers[k / 2]), log);
        }
      }
    });
    stabilizers[0] = MostOfFour(stabilizers[0]);
    stabilizers[1] = MostOfFour(stabilizers[1]);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < kFeatureTiles; ++m) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          float& log = here(logs[m][k]);
          log = FlushedExp(log - here(stabilizers[k / 2]));
          here(below[k / 2]) = fmaf(log, psi[feature(here.lane, m, k)], here(below[k / 2]));
        }
      }
    });
  }

  // Adds what the warp's queries read of 16 published keys, up to their own.
  MNEMOSYNE_DEVICE void ReadKeys(const A (&phi)[kFeatureTiles / 2], uint32_t keys,
                                 F (&out)[kOwnTiles][4], F (&below)[2]) const {
    F weights[2][4];
    MNEMOSYNE_UNROLL_ALL
    for (int side = 0; side < 2; ++side) {
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) weights[side][k] = F(0.0F);
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < kFeatureTiles / 2; ++m) {
        const B b = B::Load(space_.Keys(), keys + static_cast<uint32_t>(8 * side),
                            static_cast<uint32_t>(8 * m));
        Fragments::Multiply(phi[m], b, weights[side]);
      }
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          const uint32_t row = QueryRow(here.lane / 4 + k / 2 * 8);
          if (keys + KeyOf(here.lane, side, k) > row) here(weights[side][k]) = 0;
          here(below[k / 2]) += here(weights[side][k]);
        }
      });
    }
    const A a = A::From(weights[0], weights[1]);
    MNEMOSYNE_UNROLL_ALL
    for (int v = 0; v < kOwnTiles; ++v) {
      const B b = B::Load(space_.Values(), OwnValue(v), keys / 2);
      Fragments::Multiply(a, b, out[v]);
    }
  }

  // Divides, and writes the warp's rows within [begin, end).
  MNEMOSYNE_DEVICE void Finish(uint32_t first, uint32_t begin, uint32_t end,
                               const F (&stabilizers)[2], F (&below)[2],
                               F (&out)[kOwnTiles][4]) const {
    const FltArrays& arrays = space_.call.arrays;
    const float* const halves = space_.Floats(space_.at.halves);
    const bool pairs = ValueCount() % 2 == 0 && InPairs(arrays.type, arrays.out);
    below[0] = SumOfFour(below[0]);
    below[1] = SumOfFour(below[1]);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        const uint32_t row = QueryRow(here.lane / 4 + 8 * h);
        if (row < begin || row >= end) continue;
        const float sum = here(below[h]);
        const bool counts = halves[row] >= 0 && sum > 0;
        const bool speaks = here.lane % 4 == 0 && warp_ < Sizes::kRowWarps;  // For its row.
        uint32_t bad = sum != sum && speaks ? 1 : 0;
        const float inverse = counts ? 1 / sum : 0.0F;
        const size_t at = ElementAt(arrays.out, space_.part, first + row);
        MNEMOSYNE_UNROLL_ALL
        for (int v = 0; v < kOwnTiles; ++v) {
          const uint32_t d = OwnValue(v) + static_cast<uint32_t>(2 * (here.lane % 4));
          if (d >= ValueCount()) continue;
          const float x = here(out[v][2 * h]) * inverse, y = here(out[v][2 * h + 1]) * inverse;
          if (!IsFinite(x) || !IsFinite(y)) ++bad;
          if (pairs) {
            WritePair(arrays.type, arrays.out.data, at + d, x, y);
          } else {
            WriteElement(arrays.type, arrays.out.data, at + d, x);
            if (d + 1 < ValueCount()) WriteElement(arrays.type, arrays.out.data, at + d + 1, y);
          }
        }
        if (bad > 0) T::Add(&space_.Counts().outputs, bad);
        if (arrays.normalizers == nullptr || !speaks) continue;
        float* const to = arrays.normalizers +
                          2 * ((static_cast<size_t>(space_.part.batch) * space_.call.shape.heads +
                                space_.part.head) *
                                   arrays.length +
                               first + row);
        to[0] = here(stabilizers[h]);
        to[1] = counts ? sum : 0.0F;
      }
    });
  }

  const FltTeamSpace<Sizes>& space_;
  const uint32_t warp_;

  F maxima_[2], psi_[2];  // Of features g and g + 8 of lane 4 g + t; parts of Psi.
  F n_[kValueTiles][4];   // [16, Dv]
  F logs_[kKeyTiles][4];  // [16, rows]: of keys.
};

}  // namespace mnemosyne::kernels::cuda
