// The answers to the queries of a part from the sums before it and the keys up to each, as the
// program of a team of four warps on tensor cores: in tiles of 64 rows. A warp has 16 features of
// the keys and 16 queries of a tile.
//
// The maxima of a tile include keys that come later. Where that may cost a row digits, the flag is
// raised instead of ending the tile before.
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_quick_keys.h"
#include "kernels/cuda/flt_quick_queries.h"

namespace mnemosyne::kernels::cuda {

template <class T, class W, class Sizes>
class FltQuickCausal {
  using F = typename W::Floats;
  using U = typename W::Words;
  using Fragments = FltQuickFragments<W>;
  using Pair = typename Fragments::Pair;
  using Keys = FltQuickKeys<T, W, Sizes>;
  using Queries = FltQuickQueries<T, W, Sizes>;

 public:
  MNEMOSYNE_DEVICE FltQuickCausal(const FltQuickSpace& space, uint32_t warp)
      : space_(space), warp_(warp), keys_(space, warp), queries_(space, warp, space.at.queries) {}

  // `biases` are those of the features of queries.
  MNEMOSYNE_DEVICE void Start(const float* sums, const uint32_t* biases) {
    keys_.Start();
    keys_.LoadSums(sums);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) here(biases_[h]) = FloatOf(biases[keys_.FeatureOf(here.lane, h)]);
    });
  }
  MNEMOSYNE_DEVICE void StoreSums(float* sums) { keys_.StoreSums(sums); }

  // Rows from `first` on; the queries are the warp's own.
  MNEMOSYNE_DEVICE void Fetch(uint32_t first, uint32_t rows) const {
    const uint32_t own = warp_ * kOwn;
    queries_.Fetch(first + own, rows > own ? rows - own : 0);
  }
  MNEMOSYNE_DEVICE void Stage(uint32_t first, uint32_t rows) {
    keys_.Stage(first, rows, space_.at.raw, space_.at.positions, 0);
  }

  // Logarithms of keys and queries, and the sums before the tile for all to read.
  MNEMOSYNE_DEVICE void Measure() {
    const float* const halves = space_.Floats(space_.at.halves);
    uint32_t base = 0;
    while (base < Sizes::kRows && halves[base] == kFltQuickNoRow) ++base;
    keys_.Measure(space_.at.raw, key_logs_);
    keys_.CheckRise(key_logs_, base);
    keys_.Raise(key_logs_);
    keys_.PublishSums(biases_);
    queries_.MeasureNumbers(query_logs_);
    if (space_.call.shape.waves > 0) queries_.MeasureStagedWaves(query_logs_);
  }

  // Adds the keys to the sums, and shows their features.
  MNEMOSYNE_DEVICE void Add() {
    typename Keys::Features phi;
    keys_.Exponentiate(key_logs_, phi);
    keys_.PublishKeys(phi);
    keys_.AddValues(space_.at.raw, phi);
  }

  MNEMOSYNE_DEVICE void Answer(uint32_t first, uint32_t rows) {
    const uint32_t own = warp_ * kOwn;
    if (rows <= own) return;
    typename Queries::Weights phi;
    F below[1][2], most[1][2];
    queries_.template Exponentiate<true>(query_logs_, phi, below, most);
    // Of 32 keys, weights are the left sides of two products.
    U weights[kBlocks][2][kParts][4];
    F within[2] = {F(0.0F), F(0.0F)};
    MNEMOSYNE_UNROLL_ALL
    for (int block = 0; block < kBlocks; ++block) {
      if (static_cast<uint32_t>(32 * block) <= own) Weigh(block, phi[0], weights[block], within);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      within[h] = within[h] + W::Exchange(within[h], 1);
      within[h] = within[h] + W::Exchange(within[h], 2);
      below[0][h] = below[0][h] + within[h];
    }
    const uint32_t own_rows = rows - own < kOwn ? rows - own : kOwn;
    queries_.WriteNormalizers(first + own, own_rows, most, below);
    queries_.template Finish<false>(first + own, own_rows, phi, below,
                                    [&](int tile, F(&sums)[1][4]) {
                                      MNEMOSYNE_UNROLL_ALL
                                      for (int block = 0; block < kBlocks; ++block) {
                                        if (static_cast<uint32_t>(32 * block) > own) break;
                                        AddValues(block, tile, weights[block], sums[0]);
                                      }
                                    });
  }

 private:
  static constexpr uint32_t kOwn = 16;  // Queries of a warp.
  static constexpr int kParts = Sizes::kFeatureParts, kBlocks = Sizes::kRows / 32;
  static_assert(Queries::kGroups == 1 && Sizes::kWarps == 4 && Sizes::kRows == 64);

  // What the warp's queries weigh 32 keys with, those up to their own; adds it to `within`.
  MNEMOSYNE_DEVICE void Weigh(int block, const U (&phi)[Sizes::kFeatures / 16][kParts][4],
                              U (&weights)[2][kParts][4], F (&within)[2]) const {
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < 4; ++j) {
      F sums[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < Sizes::kFeatures / 16; m += 2) {
        U first[kParts][2], second[kParts][2];
        MNEMOSYNE_UNROLL_ALL
        for (int part = 0; part < kParts; ++part) {
          Pair pair;
          pair.LoadDown(space_.Words(space_.at.queries) +
                            static_cast<uint32_t>(part * Sizes::kFeatures) * Sizes::kStride,
                        Sizes::kStride, static_cast<uint32_t>(16 * m),
                        static_cast<uint32_t>(16 * block + 4 * j));
          MNEMOSYNE_UNROLL_ALL
          for (int i = 0; i < 2; ++i) {
            first[part][i] = pair.first[i];
            second[part][i] = pair.second[i];
          }
        }
        F product[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
        Fragments::template MultiplyParts<kParts, kParts>(product, phi[m], first);
        Fragments::template MultiplyParts<kParts, kParts>(product, phi[m + 1], second);
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) sums[k] = sums[k] + product[k];
      }
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          const auto key = static_cast<uint32_t>(32 * block + 8 * j + 2 * (here.lane % 4) + k % 2);
          const uint32_t row = warp_ * kOwn + static_cast<uint32_t>(here.lane / 4 + k / 2 * 8);
          if (key > row) here(sums[k]) = 0;
          here(within[k / 2]) += here(sums[k]);
        }
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const FltPair<kParts> pair(here(sums[2 * h]), here(sums[2 * h + 1]));
          MNEMOSYNE_UNROLL_ALL
          for (int part = 0; part < kParts; ++part) {
            here(weights[j / 2][part][j % 2 * 2 + h]) = pair.part[part];
          }
        }
      });
    }
  }

  MNEMOSYNE_DEVICE void AddValues(int block, int tile, const U (&weights)[2][kParts][4],
                                  F (&sums)[4]) const {
    U first[Sizes::kValueParts][2], second[Sizes::kValueParts][2];
    keys_.LoadValues(space_.at.raw, static_cast<uint32_t>(32 * block), tile, first, second);
    F product[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
    Fragments::template MultiplyParts<kParts, Sizes::kValueParts>(product, weights[0], first);
    Fragments::template MultiplyParts<kParts, Sizes::kValueParts>(product, weights[1], second);
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < 4; ++k) sums[k] = sums[k] + product[k];
  }

  const FltQuickSpace& space_;
  const uint32_t warp_;
  Keys keys_;
  Queries queries_;
  F biases_[2];
  typename Keys::Logs key_logs_;
  typename Queries::Logs query_logs_;
};

// Answers each query from `sums` and the keys up to it; `sums` become those over all keys if the
// part is its sequence's last and there is a state.
template <class T, class Sizes, class Team>
MNEMOSYNE_DEVICE void AnswerCausalQuickly(const FltQuickSpace& space, Team& team, float* sums) {
  const FltPart& part = space.part;
  const uint32_t* const biases = FetchFltWeights<T, Sizes>(space);
  StageFltQuickWaves<T, Sizes>(space);
  team.Each([&](auto& warp) { warp.Start(sums, biases); });
  for (uint32_t at = 0; at < part.count; at += Sizes::kRows) {
    const uint32_t first = part.first + at, rest = part.count - at;
    const uint32_t rows = rest < Sizes::kRows ? rest : Sizes::kRows;
    FetchFltKeys<T, Sizes>(space, first, rows, space.at.raw, space.at.positions);
    team.Run([&](auto& warp) { warp.Fetch(first, rows); });
    T::WaitForCopies();
    team.Each([&](auto&) {});
    team.Each([&](auto& warp) { warp.Stage(first, rows); });
    team.Each([&](auto& warp) { warp.Measure(); });
    team.Each([&](auto& warp) { warp.Add(); });
    team.Each([&](auto& warp) { warp.Answer(first, rows); });
  }
  if (part.is_last && space.call.arrays.state != nullptr) {
    team.Run([&](auto& warp) { warp.StoreSums(sums); });
  }
}

}  // namespace mnemosyne::kernels::cuda
