// The answers to the queries of a part from the sums before it and the keys up to each, as the
// program of a group of four warps: see flt_group_sizes.h and flt_quick_causal.h. Products of a
// tile have all pairs of its 64 rows; those with later keys are left out afterwards.
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_group_keys.h"
#include "kernels/cuda/flt_group_queries.h"

namespace mnemosyne::kernels::cuda {

// A warp's 16 features of keys.
template <class T, class W, class Sizes>
class FltGroupCausalKeys : public FltGroupKeys<T, W, Sizes> {
  using Base = FltGroupKeys<T, W, Sizes>;
  using F = typename W::Floats;

 public:
  using Features = typename FltQuickKeys<T, W, Sizes>::Features;
  using Base::Base;

  // `biases` are those of the features of queries.
  MNEMOSYNE_DEVICE void StartFrom(const float* sums, const uint32_t* biases) {
    this->Start();
    this->LoadSums(sums);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        float& maximum = here(this->maxima_[h]);
        const float bias = here(this->bias_[h]);
        if (maximum > kFltNoKey / 2) maximum -= bias;
        here(biases_[h]) = FloatOf(biases[this->FeatureOf(here.lane, h)]) + bias;
      }
    });
  }

  // Raises the maxima to those of the tile, after its products are formed, and shows all warps the
  // sums before it.
  MNEMOSYNE_DEVICE void Measure() {
    W::GroupWait(this->logs_);
    this->SubtractHalves();
    const float* const halves = this->Halves();
    uint32_t base = 0;
    while (base < Sizes::kRows && halves[base] == kFltQuickNoRow) ++base;
    this->CheckRise(this->logs_, base);
    this->RaiseTo(this->Most());
    const F psi[2] = {this->SumOfFour(this->psi_[0]), this->SumOfFour(this->psi_[1])};
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        const uint32_t m = this->FeatureOf(here.lane, h);
        if (here.lane % 4 == 0) {
          this->space_.Floats(this->space_.at.lifts)[m] = here(this->maxima_[h]) + here(biases_[h]);
          this->space_.Floats(this->space_.at.psi)[m] = here(psi[h]);
        }
        MNEMOSYNE_UNROLL_ALL
        for (int v = 0; v < 8; ++v) {
          const FltPair<2> pair(here(this->n_[v][2 * h]), here(this->n_[v][2 * h + 1]));
          Show(this->space_.at.means, m, 4 * v + here.lane % 4, pair.part);
        }
      }
    });
  }

  // Adds the keys to the sums, and shows their features.
  MNEMOSYNE_DEVICE void Add() {
    Features phi;
    this->Exponentiate(phi);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int j = 0; j < 8; ++j) {
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const uint32_t parts[2] = {here(phi[j / 2][0][j % 2 * 2 + h]),
                                     here(phi[j / 2][1][j % 2 * 2 + h])};
          Show(this->space_.at.x, this->FeatureOf(here.lane, h), 4 * j + here.lane % 4, parts);
        }
      }
    });
    this->AddValues(this->space_.at.raw + Sizes::kTileWords, phi);
  }

 private:
  MNEMOSYNE_DEVICE void Show(uint32_t tile, uint32_t row, int word,
                             const uint32_t (&parts)[2]) const {
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t part = 0; part < 2; ++part) {
      this->space_.Words(tile +
                         part * Sizes::kTileWords)[FltGroupWord(row, static_cast<uint32_t>(word))] =
          parts[part];
    }
  }

  F biases_[2];  // Of features of keys and of queries together.
};

// A warp's 16 queries.
template <class T, class W, class Sizes>
class FltGroupCausalQueries : public FltGroupQueries<T, W, Sizes> {
  using Base = FltGroupQueries<T, W, Sizes>;
  using Plain = FltQuickQueries<T, W, Sizes>;
  using F = typename W::Floats;
  using U = typename W::Words;

 public:
  using Base::Base;

  // Logarithms of the tile's queries, whose waves are those of its keys.
  MNEMOSYNE_DEVICE void Multiply() {
    const uint32_t* const x = this->space_.Words(this->space_.at.queries);
    W::GroupBegin();
    MNEMOSYNE_UNROLL_ALL
    for (int part = 1; part >= 0; --part) {
      MNEMOSYNE_UNROLL_ALL
      for (int s = 0; s < 4; ++s) {
        W::template GroupMultiplyShared<false>(logs_[0], x, this->WeightsOf(part), s, this->warp_,
                                               s > 0 || part < 1);
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (int sum = 1; sum >= 0; --sum) {
      MNEMOSYNE_UNROLL_ALL
      for (int s = 0; s < 4; ++s) {
        if (sum > 0) {
          W::template GroupMultiplyShared<true>(logs_[0], Tile(this->space_.at.waves, 1),
                                                this->WeightsOf(2), s, this->warp_, true);
        }
        W::template GroupMultiplyShared<true>(logs_[0], Tile(this->space_.at.waves, 0),
                                              this->WeightsOf(2 + sum), s, this->warp_, true);
      }
    }
    W::GroupCommit();
  }
  MNEMOSYNE_DEVICE void Wait() { W::GroupWait(logs_[0]); }

  MNEMOSYNE_DEVICE void Answer(uint32_t first, uint32_t rows) {
    typename Plain::Weights phi;
    F below[1][2], most[1][2];
    this->Plain::template Exponentiate<true>(logs_, phi, below, most);
    F pairs[8][4], sums[8][4];
    MultiplyParts(phi[0], this->space_.at.x, pairs);
    W::GroupCommit();
    W::GroupWait(pairs);
    U weights[4][2][4];
    Weigh(pairs, weights, below[0]);
    MultiplyParts(phi[0], this->space_.at.means, sums);
    const uint32_t* const values = Tile(this->space_.at.raw, 1);
    MNEMOSYNE_UNROLL_ALL
    for (int part = 1; part >= 0; --part) {
      MNEMOSYNE_UNROLL_ALL
      for (int s = 0; s < 4; ++s) {
        W::template GroupMultiply<false, true>(sums, weights[s][part], values, s, true);
      }
    }
    W::GroupCommit();
    const uint32_t before = 16 * this->warp_, own = rows > before ? rows - before : 0;
    this->WriteNormalizers(first + before, own, most, below);
    W::GroupWait(sums);
    MNEMOSYNE_UNROLL_ALL
    for (int half = 0; half < 2; ++half) {
      if (half > 0 && this->space_.call.shape.values <= 32) break;
      F out[1][4][4];
      MNEMOSYNE_UNROLL_ALL
      for (int v = 0; v < 4; ++v) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) out[0][v][k] = sums[4 * half + v][k];
      }
      this->template WriteHalf<false>(first + before, own, half, out, below);
    }
  }

 private:
  MNEMOSYNE_DEVICE const uint32_t* Tile(uint32_t at, uint32_t part) const {
    return this->space_.Words(at + part * Sizes::kTileWords);
  }

  // sums = phi times a matrix in two parts, whose rows are features.
  MNEMOSYNE_DEVICE void MultiplyParts(const U (&phi)[4][2][4], uint32_t matrix,
                                      F (&sums)[8][4]) const {
    W::GroupBegin();
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t sum = 2; sum-- > 0;) {
      MNEMOSYNE_UNROLL_ALL
      for (int s = 0; s < 4; ++s) {
        if (sum > 0) {
          W::template GroupMultiply<false, true>(sums, phi[s][1], Tile(matrix, 0), s, s > 0);
        }
        W::template GroupMultiply<false, true>(sums, phi[s][0], Tile(matrix, sum), s, true);
      }
    }
  }

  // What the warp's queries weigh keys up to their own with, in parts; adds it to `below`.
  MNEMOSYNE_DEVICE void Weigh(F (&pairs)[8][4], U (&weights)[4][2][4], F (&below)[2]) const {
    F within[2] = {F(0.0F), F(0.0F)};
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int j = 0; j < 8; ++j) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          const auto key = static_cast<uint32_t>(8 * j + 2 * (here.lane % 4) + k % 2);
          const uint32_t row = 16 * this->warp_ + static_cast<uint32_t>(here.lane / 4 + k / 2 * 8);
          float& own = here(pairs[j][k]);
          if (key > row) own = 0;
          here(within[k / 2]) += own;
        }
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const FltPair<2> pair(here(pairs[j][2 * h]), here(pairs[j][2 * h + 1]));
          MNEMOSYNE_UNROLL_ALL
          for (int part = 0; part < 2; ++part) {
            here(weights[j / 2][part][j % 2 * 2 + h]) = pair.part[part];
          }
        }
      }
    });
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      within[h] = within[h] + W::Exchange(within[h], 1);
      within[h] = within[h] + W::Exchange(within[h], 2);
      below[h] = below[h] + within[h];
    }
  }

  typename Plain::Logs logs_;
};

// Both.
template <class T, class W, class Sizes>
struct FltGroupCausal {
  MNEMOSYNE_DEVICE FltGroupCausal(const FltQuickSpace& space, uint32_t warp)
      : keys(space, warp), queries(space, warp) {}

  FltGroupCausalKeys<T, W, Sizes> keys;
  FltGroupCausalQueries<T, W, Sizes> queries;
};

// As AnswerCausalQuickly.
template <class T, class W, class Sizes, class Team>
MNEMOSYNE_DEVICE void AnswerCausalInGroup(const FltQuickSpace& space, Team& team, float* sums) {
  constexpr uint32_t kRows = Sizes::kRows;
  const FltPart& part = space.part;
  const FltArrays& arrays = space.call.arrays;
  const FltShape& shape = space.call.shape;
  const bool has_waves = shape.waves > 0;
  const uint32_t tiles = (part.count + kRows - 1) / kRows;
  const auto first_of = [&](uint32_t tile) { return part.first + tile * kRows; };
  const auto rows_of = [&](uint32_t tile) {
    const uint32_t rest = part.count - tile * kRows;
    return rest < kRows ? rest : kRows;
  };
  const FltGroupTensor keys[1] = {{arrays.k, shape.dim}}, values[1] = {{arrays.v, shape.values}},
                       queries[1] = {{arrays.q, shape.dim}};
  const auto fetch = [&](const FltGroupTensor(&tensor)[1], uint32_t tile, uint32_t to) {
    if (tile >= tiles) return;
    FetchFltGroupRows<T, Sizes>(space, tensor, first_of(tile), rows_of(tile), to);
  };
  // The warp that writes the base of a tile's waves.
  const auto writes = [&](const auto& warp, uint32_t tile) {
    return has_waves && tile < tiles && warp.keys.warp() == tile % 4;
  };
  const uint32_t* const biases = FetchFltGroupWeights<T, Sizes>(space);
  fetch(keys, 0, space.at.raw);
  fetch(queries, 0, space.at.queries);
  StageFltQuickWaves<T, Sizes>(space);
  team.Each([&](auto& warp) {
    if (has_waves) warp.keys.FetchPositions(first_of(0), rows_of(0));
    if (writes(warp, 0)) warp.keys.FetchMiddle(first_of(0), rows_of(0));
    warp.keys.StartFrom(sums, biases);
  });
  team.Run([&](auto& warp) {
    if (has_waves && warp.keys.warp() == 3) warp.keys.waves().Start();
    if (writes(warp, 0)) warp.keys.WriteBase(0);
    // Zeros are staged once.
    if (!has_waves) warp.keys.StageWaves(0, 0, 0);
  });
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    const uint32_t first = first_of(tile), rows = rows_of(tile);
    T::WaitForCopies();
    team.Each([&](auto&) {});
    fetch(values, tile, space.at.raw + Sizes::kTileWords);
    team.Each([&](auto& warp) {
      warp.keys.StageSquares(first, rows, space.at.raw);
      if (has_waves) {
        warp.keys.StageWaves(rows, tile % 2, 0);
        if (tile + 1 < tiles) warp.keys.FetchPositions(first_of(tile + 1), rows_of(tile + 1));
        if (writes(warp, tile + 1)) warp.keys.FetchMiddle(first_of(tile + 1), rows_of(tile + 1));
      }
      W::GroupShow();
    });
    team.Run([&](auto& warp) {
      warp.keys.Multiply(space.at.raw, 0);
      warp.queries.Multiply();
      warp.queries.Wait();
      warp.keys.Measure();
    });
    T::WaitForCopies();
    team.Each([&](auto&) { W::GroupShow(); });
    fetch(keys, tile + 1, space.at.raw);
    fetch(queries, tile + 1, space.at.queries);
    team.Each([&](auto& warp) {
      warp.keys.Add();
      if (writes(warp, tile + 1)) warp.keys.WriteBase((tile + 1) % 2);
      W::GroupShow();
    });
    team.Run([&](auto& warp) { warp.queries.Answer(first, rows); });
  }
  if (part.is_last && arrays.state != nullptr) {
    team.Run([&](auto& warp) { warp.keys.Finish(sums); });
  }
}

}  // namespace mnemosyne::kernels::cuda
