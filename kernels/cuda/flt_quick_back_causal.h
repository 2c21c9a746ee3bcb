// What the rows of one side, the readers, get from the other side in the quick program's backward
// pass of causal sequences: from the sums outside of their tile of 64 rows, and the rows of the
// tile that saw them or that they saw. Queries read keys up to their own row, tile by tile in their
// order; keys read queries from their own row on, against it. A team of four warps: a warp has 16
// features of the others, and 16 readers of a tile.
//
// As in the forward pass, the maxima of a tile include all of its rows. Where that may cost a row
// digits, the flag is raised.
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_quick_keys.h"
#include "kernels/cuda/flt_quick_reader.h"

namespace mnemosyne::kernels::cuda {

template <class T, class W, class Sizes>
class FltQuickBackCausal {
  using F = typename W::Floats;
  using U = typename W::Words;
  using Fragments = FltQuickFragments<W>;
  using Pair = typename Fragments::Pair;
  using Others = FltQuickKeys<T, W, Sizes>;
  using Reader = FltQuickReader<T, W, Sizes>;

 public:
  MNEMOSYNE_DEVICE FltQuickBackCausal(const FltSideSpace& space, uint32_t warp)
      : space_(space), warp_(warp), others_(space, warp), reader_(space, warp) {}

  // `biases` are those of the features of readers.
  MNEMOSYNE_DEVICE void Start(const float* sums, const uint32_t* biases) {
    others_.Start();
    others_.LoadSums(sums);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        here(biases_[h]) = FloatOf(biases[others_.FeatureOf(here.lane, h)]);
      }
    });
    reader_.ClearWaves();
  }

  // Rows from `first` on; the readers are the warp's own.
  MNEMOSYNE_DEVICE void Fetch(uint32_t first, uint32_t rows) const {
    const uint32_t own = warp_ * kOwn;
    reader_.Fetch(first + own, rows > own ? rows - own : 0);
  }
  MNEMOSYNE_DEVICE void Stage(uint32_t first, uint32_t rows) {
    others_.Stage(first, rows, space_.at.raw, space_.at.positions, 0);
    reader_.LoadValues(values_);
  }

  // Logarithms of both sides, and the sums outside of the tile for all to read.
  MNEMOSYNE_DEVICE void Measure() {
    others_.Measure(space_.at.raw, other_logs_);
    others_.CheckRise(other_logs_, Base());
    others_.Raise(other_logs_);
    others_.PublishSums(biases_);
    reader_.queries().MeasureNumbers(logs_);
    if (space_.call.shape.waves > 0) reader_.queries().MeasureStagedWaves(logs_);
  }

  // Adds the others to the sums, and shows their features.
  MNEMOSYNE_DEVICE void Add() {
    typename Others::Features phi;
    others_.Exponentiate(other_logs_, phi);
    others_.PublishKeys(phi);
    others_.AddValues(space_.at.raw, phi);
  }

  MNEMOSYNE_DEVICE void Differentiate(uint32_t first, uint32_t rows) {
    const uint32_t own = warp_ * kOwn;
    if (rows <= own) return;
    const uint32_t own_rows = rows - own < kOwn ? rows - own : kOwn;
    F weights[2];
    reader_.Activate(first + own, own_rows, logs_, weights);
    typename Reader::Matrix gradient;
    reader_.Read(values_, weights, gradient);
    MNEMOSYNE_UNROLL_ALL
    for (int block = 0; block < kBlocks; ++block) {
      if (!Meets(block)) continue;
      U pairs[2][kGradientParts][4];
      Pairs(block, weights, pairs);
      AddPairs(block, pairs, gradient);
    }
    if (space_.side.value_gradient.data != nullptr) {
      U shares[kBlocks][2][kFeatureParts][4];
      typename Reader::Features features;
      Reader::Split(logs_, features);
      MNEMOSYNE_UNROLL_ALL
      for (int block = 0; block < kBlocks; ++block) {
        if (Meets(block)) Weigh(block, features, shares[block]);
      }
      reader_.WriteValues(first + own, own_rows, logs_, [&](int tile, F(&sums)[4]) {
        MNEMOSYNE_UNROLL_ALL
        for (int block = 0; block < kBlocks; ++block) {
          if (Meets(block)) AddShares(block, tile, shares[block], sums);
        }
      });
    }
    reader_.Finish(first + own, own_rows, logs_, gradient);
  }

 private:
  static constexpr uint32_t kOwn = 16;  // Readers of a warp.
  static constexpr int kBlocks = Sizes::kRows / 32;
  static constexpr int kFeatureParts = Sizes::kFeatureParts;
  static constexpr int kValueParts = Sizes::kValueParts;
  static constexpr int kGradientParts = Sizes::kGradientParts;
  static_assert(Sizes::kWarps == 4 && Sizes::kRows == 64);

  // The row of the others that comes first in their order, which no maximum is too large for.
  MNEMOSYNE_DEVICE uint32_t Base() const {
    const float* const halves = space_.Floats(space_.at.halves);
    if (space_.call.mirrored) {
      uint32_t base = Sizes::kRows - 1;
      while (base > 0 && halves[base] == kFltQuickNoRow) --base;
      return base;
    }
    uint32_t base = 0;
    while (base + 1 < Sizes::kRows && halves[base] == kFltQuickNoRow) ++base;
    return base;
  }

  // Whether any of the warp's readers meets any of 32 others.
  MNEMOSYNE_DEVICE bool Meets(int block) const {
    const auto start = static_cast<uint32_t>(32 * block);
    return space_.call.mirrored ? start + 32 > warp_ * kOwn : start <= warp_ * kOwn;
  }
  // Whether reader `row` of the tile meets other `other`.
  MNEMOSYNE_DEVICE bool Meet(uint32_t row, uint32_t other) const {
    return space_.call.mirrored ? other >= row : other <= row;
  }
  static MNEMOSYNE_DEVICE uint32_t OtherOf(int block, int j, int lane, int k) {
    return static_cast<uint32_t>(32 * block + 8 * j + 2 * (lane % 4) + k % 2);
  }

  // Gradients of what the readers and 32 others weigh each other with.
  MNEMOSYNE_DEVICE void Pairs(int block, const F (&weights)[2],
                              U (&pairs)[2][kGradientParts][4]) const {
    const float* const others = space_.Floats(space_.at.row_weights);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < 4; ++j) {
      F sums[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t s = 0; s < Sizes::kValues / 16; s += 2) {
        U first[kValueParts][2], second[kValueParts][2];
        others_.LoadValuesAlong(space_.at.raw, static_cast<uint32_t>(32 * block + 8 * j), s, first,
                                second);
        Fragments::template MultiplyParts<kValueParts, kValueParts>(sums, values_[s], first);
        Fragments::template MultiplyParts<kValueParts, kValueParts>(sums, values_[s + 1], second);
      }
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          const uint32_t other = OtherOf(block, j, here.lane, k);
          const uint32_t row = warp_ * kOwn + static_cast<uint32_t>(here.lane / 4 + k / 2 * 8);
          float& own = here(sums[k]);
          own = Meet(row, other) ? fmaf(here(weights[k / 2]), others[other], own) : 0.0F;
        }
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const FltPair<kGradientParts> pair(here(sums[2 * h]), here(sums[2 * h + 1]));
          MNEMOSYNE_UNROLL_ALL
          for (int part = 0; part < kGradientParts; ++part) {
            here(pairs[j / 2][part][j % 2 * 2 + h]) = pair.part[part];
          }
        }
      });
    }
  }

  // Adds what they make of gradients of the readers' features.
  MNEMOSYNE_DEVICE void AddPairs(int block, const U (&pairs)[2][kGradientParts][4],
                                 typename Reader::Matrix& gradient) const {
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < Reader::kTiles; ++m) {
      U first[kFeatureParts][2], second[kFeatureParts][2];
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t part = 0; part < kFeatureParts; ++part) {
        Pair pair;
        pair.Load(space_.Words(space_.at.queries) + part * Sizes::kFeatures * Sizes::kStride,
                  Sizes::kStride, static_cast<uint32_t>(8 * m), static_cast<uint32_t>(16 * block));
        Take(pair, first[part], second[part]);
      }
      F sums[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
      Fragments::template MultiplyParts<kGradientParts, kFeatureParts>(sums, pairs[0], first);
      Fragments::template MultiplyParts<kGradientParts, kFeatureParts>(sums, pairs[1], second);
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) gradient[m][k] = gradient[m][k] + sums[k];
    }
  }

  // What the readers and 32 others weigh each other with.
  MNEMOSYNE_DEVICE void Weigh(int block, const typename Reader::Features& features,
                              U (&shares)[2][kFeatureParts][4]) const {
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < 4; ++j) {
      F sums[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < Sizes::kFeatures / 16; m += 2) {
        U first[kFeatureParts][2], second[kFeatureParts][2];
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t part = 0; part < kFeatureParts; ++part) {
          Pair pair;
          pair.LoadDown(space_.Words(space_.at.queries) + part * Sizes::kFeatures * Sizes::kStride,
                        Sizes::kStride, static_cast<uint32_t>(16 * m),
                        static_cast<uint32_t>(16 * block + 4 * j));
          Take(pair, first[part], second[part]);
        }
        Fragments::template MultiplyParts<kFeatureParts, kFeatureParts>(sums, features[m], first);
        Fragments::template MultiplyParts<kFeatureParts, kFeatureParts>(sums, features[m + 1],
                                                                        second);
      }
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          const uint32_t row = warp_ * kOwn + static_cast<uint32_t>(here.lane / 4 + k / 2 * 8);
          if (!Meet(row, OtherOf(block, j, here.lane, k))) here(sums[k]) = 0;
        }
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const FltPair<kFeatureParts> pair(here(sums[2 * h]), here(sums[2 * h + 1]));
          MNEMOSYNE_UNROLL_ALL
          for (int part = 0; part < kFeatureParts; ++part) {
            here(shares[j / 2][part][j % 2 * 2 + h]) = pair.part[part];
          }
        }
      });
    }
  }

  MNEMOSYNE_DEVICE void AddShares(int block, int tile, const U (&shares)[2][kFeatureParts][4],
                                  F (&sums)[4]) const {
    U first[kValueParts][2], second[kValueParts][2];
    others_.LoadValues(space_.at.raw, static_cast<uint32_t>(32 * block), tile, first, second);
    F product[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
    Fragments::template MultiplyParts<kFeatureParts, kValueParts>(product, shares[0], first);
    Fragments::template MultiplyParts<kFeatureParts, kValueParts>(product, shares[1], second);
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < 4; ++k) sums[k] = sums[k] + product[k];
  }

  static MNEMOSYNE_DEVICE void Take(const Pair& pair, U (&first)[2], U (&second)[2]) {
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 2; ++i) {
      first[i] = pair.first[i];
      second[i] = pair.second[i];
    }
  }

  const FltSideSpace& space_;
  const uint32_t warp_;
  Others others_;
  Reader reader_;
  F biases_[2];
  typename Others::Logs other_logs_;
  typename Reader::Logs logs_;
  typename Reader::Values values_;
};

// Gradients of the part's readers from `starts` and its rows.
template <class T, class Sizes, class Team>
MNEMOSYNE_DEVICE void DifferentiateCausalQuickly(const FltSideSpace& space, Team& team,
                                                 const float* starts, float* gradients) {
  const FltPart& part = space.part;
  const uint32_t* const biases = FetchFltWeights<T, Sizes>(space);
  StageFltReading<T, Sizes>(space);
  team.Each([&](auto& warp) { warp.Start(starts, biases); });
  const uint32_t tiles = (part.count + Sizes::kRows - 1) / Sizes::kRows;
  for (uint32_t i = 0; i < tiles; ++i) {
    const uint32_t at = (space.call.mirrored ? tiles - 1 - i : i) * Sizes::kRows;
    const uint32_t first = part.first + at, rest = part.count - at;
    const uint32_t rows = rest < Sizes::kRows ? rest : uint32_t{Sizes::kRows};
    FetchFltKeys<T, Sizes>(space, first, rows, space.at.raw, space.at.positions);
    team.Run([&](auto& warp) { warp.Fetch(first, rows); });
    T::WaitForCopies();
    team.Each([&](auto&) {});
    team.Each([&](auto& warp) { warp.Stage(first, rows); });
    team.Each([&](auto& warp) { warp.Measure(); });
    team.Each([&](auto& warp) { warp.Add(); });
    team.Each([&](auto& warp) { warp.Differentiate(first, rows); });
  }
  AddFltWaves<T, Sizes>(space, Sizes::kWarps, gradients);
}

}  // namespace mnemosyne::kernels::cuda
