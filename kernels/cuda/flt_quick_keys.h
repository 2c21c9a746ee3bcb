// The sums over the keys of a part as the program of a team of warps on tensor cores. A warp has 16
// features: their weights and sums stay in its registers, and all warps read the same tiles of 32
// rows.
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_block.h"
#include "kernels/cuda/flt_quick_fragments.h"
#include "kernels/cuda/flt_quick_stage.h"

namespace mnemosyne::kernels::cuda {

template <class T, class W, class Sizes>
class FltQuickKeys : public FltQuickStage<T, W, Sizes> {
  using Staged = FltQuickStage<T, W, Sizes>;
  using F = typename W::Floats;
  using U = typename W::Words;
  using Fragments = FltQuickFragments<W>;
  using Pair = typename Fragments::Pair;

 public:
  static constexpr int kSteps = Sizes::kInputs / 16, kDimSteps = Sizes::kDim / 16;
  static constexpr int kKeyTiles = Sizes::kRows / 8, kValueTiles = Sizes::kValues / 8;
  static constexpr int kFeatureParts = Sizes::kFeatureParts;
  using Staged::kRawStride;
  using Staged::kRows;
  using Staged::kStride;
  using Staged::kValueParts;

  // Logarithms of the warp's features of a tile's keys; their features in parts.
  using Logs = F[kKeyTiles][4];
  using Features = U[kKeyTiles / 2][kFeatureParts][4];

  MNEMOSYNE_DEVICE FltQuickKeys(const FltQuickSpace& space, uint32_t warp) : Staged(space, warp) {}

  // The feature of row h of a lane's two rows of results.
  MNEMOSYNE_DEVICE uint32_t FeatureOf(int lane, int h) const {
    return 16 * warp_ + static_cast<uint32_t>(lane / 4 + 8 * h);
  }

  // The warp's weights, and sums over no keys.
  MNEMOSYNE_DEVICE void Start() {
    const uint32_t* const prepared =
        FltPrepared<Sizes>::Of(space_.call, space_.part.head, /*of_keys=*/true);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int part = 0; part < 2; ++part) {
        MNEMOSYNE_UNROLL_ALL
        for (int s = 0; s < kSteps; ++s) {
          MNEMOSYNE_UNROLL_ALL
          for (int i = 0; i < 4; ++i) {
            const uint32_t word = static_cast<uint32_t>(8 * s + here.lane % 4 + i / 2 * 4);
            here(weights_[s][part][i]) =
                prepared[static_cast<uint32_t>(part) * FltPrepared<Sizes>::kPartWords +
                         FeatureOf(here.lane, i % 2) * (Sizes::kInputs / 2) + word];
          }
        }
      }
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        here(bias_[h]) =
            FloatOf(prepared[2 * FltPrepared<Sizes>::kPartWords + FeatureOf(here.lane, h)]);
        here(maxima_[h]) = kFltNoKey;
        here(psi_[h]) = 0;
      }
    });
    MNEMOSYNE_UNROLL_ALL
    for (int v = 0; v < kValueTiles; ++v) {
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) n_[v][k] = F(0.0F);
    }
  }

  // Adds the keys that are staged in a slot to the sums.
  MNEMOSYNE_DEVICE void Add(uint32_t raw, uint32_t slot) {
    slot_ = slot;
    Logs logs;
    Measure(raw, logs);
    Raise(logs);
    Features phi;
    Exponentiate(logs, phi);
    AddValues(raw, phi);
  }

  // Goes on from sums in the device's memory.
  MNEMOSYNE_DEVICE void LoadSums(const float* sums) {
    const uint32_t features = space_.call.shape.features, values = space_.call.shape.values;
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        const uint32_t m = FeatureOf(here.lane, h);
        if (m >= features) continue;
        here(maxima_[h]) = sums[m];
        here(psi_[h]) = here.lane % 4 == 0 ? sums[features + m] : 0.0F;
        const float* const n = sums + 2 * features + m * values;
        MNEMOSYNE_UNROLL_ALL
        for (int v = 0; v < kValueTiles; ++v) {
          MNEMOSYNE_UNROLL_ALL
          for (int k = 0; k < 2; ++k) {
            const auto d = static_cast<uint32_t>(8 * v + 2 * (here.lane % 4) + k);
            here(n_[v][2 * h + k]) = d < values ? n[d] : 0.0F;
          }
        }
      }
    });
  }

  // Logarithms of the warp's features of the staged keys. Large and small products are summed
  // apart, because units cut sums off.
  MNEMOSYNE_DEVICE void Measure(uint32_t raw, Logs& logs) const {
    const float* const halves = Halves();
    F small[kKeyTiles][4];
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kKeyTiles; ++j) {
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          const float half = halves[8 * j + 2 * (here.lane % 4) + k % 2];
          const float start = here(bias_[k / 2]) - half;
          here(small[j][k]) = Sizes::kFull ? 0.0F : start;
          here(logs[j][k]) = Sizes::kFull ? 0.0F : start;
        }
      });
    }
    MNEMOSYNE_UNROLL_ALL
    for (int s = 0; s < kDimSteps; s += 2) {
      MNEMOSYNE_UNROLL_ALL
      for (int j = 0; j < kKeyTiles; ++j) {
        Pair x[Sizes::kRowParts];
        MNEMOSYNE_UNROLL_ALL
        for (int part = 0; part < Sizes::kRowParts; ++part) {
          x[part].Load(X(raw) + static_cast<uint32_t>(part) * kRows * kStride,
                       Sizes::kRowParts > 1 ? kStride : kRawStride, static_cast<uint32_t>(8 * j),
                       static_cast<uint32_t>(8 * s));
        }
        MultiplyPair<Sizes::kHalf>(s, x, logs[j], Sizes::kFull ? small[j] : logs[j]);
      }
    }
    if (space_.call.shape.waves > 0) {
      MNEMOSYNE_UNROLL_ALL
      for (int s = kDimSteps; s < kSteps; s += 2) {
        MNEMOSYNE_UNROLL_ALL
        for (int j = 0; j < kKeyTiles; ++j) {
          Pair x[Sizes::kWaveParts];
          MNEMOSYNE_UNROLL_ALL
          for (int part = 0; part < Sizes::kWaveParts; ++part) {
            x[part].Load(Waves() + static_cast<uint32_t>(part) * kRows * kStride, kStride,
                         static_cast<uint32_t>(8 * j), static_cast<uint32_t>(8 * (s - kDimSteps)));
          }
          MultiplyPair<true>(s, x, logs[j], Sizes::kFull ? small[j] : logs[j]);
        }
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kKeyTiles; ++j) {
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          float& log = here(logs[j][k]);
          if constexpr (Sizes::kFull) {
            const float half = halves[8 * j + 2 * (here.lane % 4) + k % 2];
            log = (log + here(small[j][k])) + (here(bias_[k / 2]) - half);
          }
        }
      });
    }
  }

  // Raises the maxima to the keys', to which all sums are relative then.
  MNEMOSYNE_DEVICE void Raise(const Logs& logs) {
    F most[2] = {F(2 * kFltNoKey), F(2 * kFltNoKey)};
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kKeyTiles; ++j) {
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) most[k / 2] = W::Max(most[k / 2], logs[j][k]);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      most[h] = MostOfFour(most[h]);
    }
    if (!W::Any(maxima_[0] < most[0]) && !W::Any(maxima_[1] < most[1])) return;
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      F factor;
      W::Each([&](auto here) {
        const float next = fmaxf(here(maxima_[h]), here(most[h]));
        here(factor) = Exp2((here(maxima_[h]) - next) * kLog2OfE);
        here(maxima_[h]) = next;
      });
      psi_[h] = psi_[h] * factor;
      MNEMOSYNE_UNROLL_ALL
      for (int v = 0; v < kValueTiles; ++v) {
        n_[v][2 * h] = n_[v][2 * h] * factor;
        n_[v][2 * h + 1] = n_[v][2 * h + 1] * factor;
      }
    }
  }

  // Features relative to the maxima, in parts; adds them to Psi.
  MNEMOSYNE_DEVICE void Exponentiate(Logs& logs, Features& phi) {
    W::Each([&](auto here) {
      float base[2];
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        // Padding is 0 even where there is no key yet.
        base[h] = -kLog2OfE * fmaxf(here(maxima_[h]), kFltNoKey / 2);
      }
      MNEMOSYNE_UNROLL_ALL
      for (int j = 0; j < kKeyTiles; ++j) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          float& own = here(logs[j][k]);
          own = Exp2(fmaf(own, kLog2OfE, base[k / 2]));
          if constexpr (Sizes::kNumbered) {
            const float weight = RowWeights()[8 * j + 2 * (here.lane % 4) + k % 2];
            here(psi_[k / 2]) = fmaf(own, weight, here(psi_[k / 2]));
          } else {
            here(psi_[k / 2]) += own;
          }
        }
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const FltPair<kFeatureParts> pair(here(logs[j][2 * h]), here(logs[j][2 * h + 1]));
          MNEMOSYNE_UNROLL_ALL
          for (int part = 0; part < kFeatureParts; ++part) {
            here(phi[j / 2][part][j % 2 * 2 + h]) = pair.part[part];
          }
        }
      }
    });
  }

  MNEMOSYNE_DEVICE void AddValues(uint32_t raw, const Features& phi) {
    MNEMOSYNE_UNROLL_ALL
    for (int v = 0; v < kValueTiles; ++v) {
      // A sum of its own, because units cut sums off.
      F sum[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < kKeyTiles / 2; i += 2) {
        U first[kValueParts][2], second[kValueParts][2];
        LoadValues(raw, static_cast<uint32_t>(16 * i), v, first, second);
        Fragments::template MultiplyParts<kFeatureParts, kValueParts>(sum, phi[i], first);
        Fragments::template MultiplyParts<kFeatureParts, kValueParts>(sum, phi[i + 1], second);
      }
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) n_[v][k] = n_[v][k] + sum[k];
    }
  }

  // Tile v of the columns of the values of 32 keys, as right sides of two products.
  MNEMOSYNE_DEVICE void LoadValues(uint32_t raw, uint32_t key, int v, U (&first)[kValueParts][2],
                                   U (&second)[kValueParts][2]) const {
    MNEMOSYNE_UNROLL_ALL
    for (int part = 0; part < kValueParts; ++part) {
      Pair pair;
      pair.LoadDown(Values(raw) + static_cast<uint32_t>(part) * kRows * kStride,
                    kValueParts > 1 ? kStride : kRawStride, key, static_cast<uint32_t>(4 * v));
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 2; ++i) {
        first[part][i] = pair.first[i];
        second[part][i] = pair.second[i];
      }
    }
  }

  // The same, where columns of the products are 8 of these rows, and what is summed over are
  // values: 32 of them from step `step` on.
  MNEMOSYNE_DEVICE void LoadValuesAlong(uint32_t raw, uint32_t row, uint32_t step,
                                        U (&first)[kValueParts][2],
                                        U (&second)[kValueParts][2]) const {
    MNEMOSYNE_UNROLL_ALL
    for (int part = 0; part < kValueParts; ++part) {
      Pair pair;
      pair.Load(Values(raw) + static_cast<uint32_t>(part) * kRows * kStride,
                kValueParts > 1 ? kStride : kRawStride, row, 8 * step);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 2; ++i) {
        first[part][i] = pair.first[i];
        second[part][i] = pair.second[i];
      }
    }
  }

  // Raises the flag where a row of a causal tile may lose digits by the maxima of the tile, see
  // FltBlock::PartEnd. Before Raise; `base` is the tile's first key, or none's.
  MNEMOSYNE_DEVICE void CheckRise(const Logs& logs, uint32_t base) const {
    F most[2] = {F(2 * kFltNoKey), F(2 * kFltNoKey)}, first[2] = {maxima_[0], maxima_[1]};
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int j = 0; j < kKeyTiles; ++j) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          const float log = here(logs[j][k]);
          float& own = here(most[k / 2]);
          own = fmaxf(own, log);
          if (static_cast<uint32_t>(8 * j + 2 * (here.lane % 4) + k % 2) == base) {
            here(first[k / 2]) = fmaxf(here(first[k / 2]), log);
          }
        }
      }
    });
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      most[h] = MostOfFour(most[h]);
      first[h] = MostOfFour(first[h]);
    }
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        if (here(most[h]) > kFltNoKey / 2 && here(most[h]) - here(first[h]) > kFltRise) {
          T::Raise(space_.call.flag);
        }
      }
    });
  }

  // Shows all warps the sums as they are, and the maxima with biases of queries.
  MNEMOSYNE_DEVICE void PublishSums(const F (&biases)[2]) const {
    const F psi[2] = {SumOfFour(psi_[0]), SumOfFour(psi_[1])};
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        const uint32_t m = FeatureOf(here.lane, h);
        if (here.lane % 4 == 0) {
          space_.Floats(space_.at.lifts)[m] = here(maxima_[h]) + here(biases[h]);
          space_.Floats(space_.at.psi)[m] = here(psi[h]);
        }
        MNEMOSYNE_UNROLL_ALL
        for (int v = 0; v < kValueTiles; ++v) {
          const FltPair<Sizes::kSumParts> pair(here(n_[v][2 * h]), here(n_[v][2 * h + 1]));
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t part = 0; part < Sizes::kSumParts; ++part) {
            space_.Words(space_.at.means)[(part * Sizes::kFeatures + m) * kStride +
                                          static_cast<uint32_t>(4 * v + here.lane % 4)] =
                pair.part[part];
          }
        }
      }
    });
  }

  // Shows all warps features of keys, [parts, M, rows], in the place of queries and keys.
  MNEMOSYNE_DEVICE void PublishKeys(const Features& phi) const {
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int j = 0; j < kKeyTiles; ++j) {
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t part = 0; part < kFeatureParts; ++part) {
            space_.Words(
                space_.at.queries)[(part * Sizes::kFeatures + FeatureOf(here.lane, h)) * kStride +
                                   static_cast<uint32_t>(4 * j + here.lane % 4)] =
                here(phi[j / 2][part][j % 2 * 2 + h]);
          }
        }
      }
    });
  }

  MNEMOSYNE_DEVICE void StoreSums(float* sums) {
    const uint32_t features = space_.call.shape.features, values = space_.call.shape.values;
    const F psi[2] = {SumOfFour(psi_[0]), SumOfFour(psi_[1])};
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        const uint32_t m = FeatureOf(here.lane, h);
        if (m >= features) continue;
        if (here.lane % 4 == 0) {
          sums[m] = here(maxima_[h]);
          sums[features + m] = here(psi[h]);
        }
        float* const n = sums + 2 * features + m * values;
        MNEMOSYNE_UNROLL_ALL
        for (int v = 0; v < kValueTiles; ++v) {
          MNEMOSYNE_UNROLL_ALL
          for (int k = 0; k < 2; ++k) {
            const auto d = static_cast<uint32_t>(8 * v + 2 * (here.lane % 4) + k);
            if (d < values) n[d] = here(n_[v][2 * h + k]);
          }
        }
      }
    });
  }

 protected:
  using Staged::Halves;
  using Staged::RowWeights;
  using Staged::slot_;
  using Staged::space_;
  using Staged::Values;
  using Staged::warp_;
  using Staged::Waves;
  using Staged::X;

  // Steps s and s + 1 of a product with the weights.
  template <bool kHalf, int kParts>
  MNEMOSYNE_DEVICE void MultiplyPair(int s, const Pair (&x)[kParts], F (&large)[4],
                                     F (&small)[4]) const {
    Fragments::template Mma<kHalf>(small, weights_[s][1], x[0].first);
    Fragments::template Mma<kHalf>(small, weights_[s + 1][1], x[0].second);
    if constexpr (kParts > 1) {
      Fragments::template Mma<kHalf>(small, weights_[s][0], x[1].first);
      Fragments::template Mma<kHalf>(small, weights_[s + 1][0], x[1].second);
    }
    if constexpr (Sizes::kFull) {
      F sum[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
      Fragments::template Mma<kHalf>(sum, weights_[s][0], x[0].first);
      Fragments::template Mma<kHalf>(sum, weights_[s + 1][0], x[0].second);
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) large[k] = large[k] + sum[k];
    } else {
      Fragments::template Mma<kHalf>(large, weights_[s][0], x[0].first);
      Fragments::template Mma<kHalf>(large, weights_[s + 1][0], x[0].second);
    }
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

  U weights_[kSteps][2][4];
  F bias_[2], maxima_[2], psi_[2];  // Of features g and g + 8 of lane 4 g + t; parts of Psi.
  F n_[kValueTiles][4];             // [16, Dv]
};

// The sums over the part's keys. `team` is as in flt_team_part.h; Run is Each without a barrier.
template <class T, class Sizes, class Team>
MNEMOSYNE_DEVICE void AddKeysQuickly(const FltQuickSpace& space, Team& team, float* sums) {
  constexpr bool kAhead = Sizes::kSlots == 2;
  constexpr uint32_t kRows = Sizes::kRows, kPositionTiles = kAhead ? Sizes::kTiles : 2;
  const FltPart& part = space.part;
  const uint32_t tiles = (part.count + kRows - 1) / kRows;
  const auto rows_of = [&](uint32_t tile) {
    const uint32_t rest = part.count - tile * kRows;
    return rest < kRows ? rest : kRows;
  };
  const auto raw_of = [&](uint32_t tile) {
    return space.at.raw + tile % Sizes::kTiles * FltQuickLayout::kRawWords<Sizes>;
  };
  const auto positions_of = [&](uint32_t tile) {
    return space.at.positions + tile % kPositionTiles * 3 * kRows;
  };
  const auto fetch = [&](uint32_t tile) {
    if (tile >= tiles) return;
    FetchFltKeys<T, Sizes>(space, part.first + tile * kRows, rows_of(tile), raw_of(tile),
                           positions_of(tile));
  };
  const auto stage = [&](auto& warp, uint32_t tile) {
    if (tile >= tiles) return;
    warp.Stage(part.first + tile * kRows, rows_of(tile), raw_of(tile), positions_of(tile),
               tile % Sizes::kSlots);
  };
  fetch(0);
  StageFltQuickWaves<T, Sizes>(space);
  team.Each([&](auto& warp) { warp.Start(); });
  T::WaitForCopies();
  team.Each([&](auto&) {});
  if (kAhead) {
    // One barrier a tile: the next is staged while this one is added.
    fetch(1);
    team.Run([&](auto& warp) { stage(warp, 0); });
  }
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    if (kAhead) {
      T::WaitForCopies();
      team.Each([&](auto&) {});
      fetch(tile + 2);
      team.Run([&](auto& warp) {
        stage(warp, tile + 1);
        warp.Add(raw_of(tile), tile % Sizes::kSlots);
      });
    } else {
      team.Each([&](auto& warp) { stage(warp, tile); });
      fetch(tile + 1);
      team.Run([&](auto& warp) { warp.Add(raw_of(tile), 0); });
      T::WaitForCopies();
      team.Each([&](auto&) {});
    }
  }
  team.Run([&](auto& warp) { warp.StoreSums(sums); });
}

// The same of the backward pass, over rows that come with numbers. Clamped rows are none.
template <class T, class Sizes, class Team>
MNEMOSYNE_DEVICE void AddRowsQuickly(const FltSide& side, const FltQuickSpace& space, Team& team,
                                     float* sums) {
  AddKeysQuickly<T, Sizes>(space, team, sums);
  const uint32_t count = space.call.shape.SumCount();
  T::Spread(side.sum_count - count, [&](uint32_t i) { sums[count + i] = 0; });
}

}  // namespace mnemosyne::kernels::cuda
