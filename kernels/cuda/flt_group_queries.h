// The answers to the queries of a part as the program of a group of four warps: see
// flt_group_sizes.h and flt_quick_queries.h. A warp has 16 queries of a tile of 64.
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <stdint.h>

#include "kernels/cuda/flt_group_keys.h"
#include "kernels/cuda/flt_group_waves.h"
#include "kernels/cuda/flt_quick_queries.h"

namespace mnemosyne::kernels::cuda {

// Begins to copy the weights of queries to tiles: of numbers, two parts, then of waves; by all
// threads.
template <class T, class Sizes>
MNEMOSYNE_DEVICE const uint32_t* FetchFltGroupWeights(const FltQuickSpace& space) {
  const uint32_t* const prepared =
      FltPrepared<Sizes>::Of(space.call, space.part.head, /*of_keys=*/false);
  constexpr uint32_t kWords = Sizes::kInputs / 2, kChunks = kWords / 4;
  T::Spread(2 * Sizes::kFeatures * kChunks, [&](uint32_t i) {
    const uint32_t row = i / kChunks, chunk = i % kChunks;
    const uint32_t part = row / Sizes::kFeatures, of_waves = chunk / 8;
    T::Copy16(space.Words(space.at.weights) + (2 * of_waves + part) * Sizes::kTileWords +
                  FltGroupWord(row % Sizes::kFeatures, chunk % 8 * 4),
              prepared + row * kWords + 4 * chunk, 16);
  });
  return prepared + 2 * FltPrepared<Sizes>::kPartWords;
}

// Means and lifts, as StageFltMeans; raises the flag where they are not finite, which outputs are
// not then, and only then if their weights are.
template <class T, class Sizes>
MNEMOSYNE_DEVICE void StageFltGroupMeans(const FltQuickSpace& space, const float* sums,
                                         const uint32_t* biases) {
  const FltShape& shape = space.call.shape;
  T::Spread(Sizes::kFeatures, [&](uint32_t m) {
    const float psi = m < shape.features ? sums[shape.features + m] : 0.0F;
    const float lift = psi > 0 ? FloatOf(biases[m]) + (sums[m] + logf(psi)) : kFltNoKey;
    if (!(psi >= 0) || !IsFinite(lift)) T::Raise(space.call.flag);
    space.Floats(space.at.lifts)[m] = lift;
  });
  const float* const n = sums + 2 * shape.features;
  // A thread's loads are under way together.
  constexpr uint32_t kPairs = Sizes::kFeatures * Sizes::kValues / 2, kAtOnce = 8;
  T::Spread(kPairs / kAtOnce, [&](uint32_t first) {
    float psi[kAtOnce], left[kAtOnce], right[kAtOnce];
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      const uint32_t i = first + k * (kPairs / kAtOnce);
      const uint32_t m = i / (Sizes::kValues / 2);
      const uint32_t d = FltQuickColumn(2 * (i % (Sizes::kValues / 2)));
      const bool there = m < shape.features;
      psi[k] = there ? sums[shape.features + m] : 0.0F;
      left[k] = there && d < shape.values ? n[m * shape.values + d] : 0.0F;
      right[k] = there && d + 1 < shape.values ? n[m * shape.values + d + 1] : 0.0F;
    }
    float check = 0;
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      const uint32_t i = first + k * (kPairs / kAtOnce);
      const uint32_t m = i / (Sizes::kValues / 2), pair = i % (Sizes::kValues / 2);
      const float inverse = psi[k] == 0 ? 0.0F : Inverse(psi[k]);
      const float low = left[k] * inverse, high = right[k] * inverse;
      check = fmaf(low, 0.0F, fmaf(high, 0.0F, check));
      const FltPair<Sizes::kFeatureParts> split(low, high);
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t part = 0; part < Sizes::kFeatureParts; ++part) {
        space.Words(space.at.means)[part * Sizes::kTileWords + FltGroupWord(m, pair)] =
            split.part[part];
      }
    }
    if (!(check == 0)) T::Raise(space.call.flag);
  });
}

template <class T, class W, class Sizes>
class FltGroupQueries : public FltQuickQueries<T, W, Sizes> {
  using Base = FltQuickQueries<T, W, Sizes>;
  using F = typename W::Floats;
  using U = typename W::Words;

 public:
  MNEMOSYNE_DEVICE FltGroupQueries(const FltQuickSpace& space, uint32_t warp)
      : Base(space, warp), waves_(space) {}

  MNEMOSYNE_DEVICE const FltTileWaves<T, W, Sizes>& waves() const { return waves_; }

  // Reads the positions of the lanes' rows of the tile that is answered next; and that in the
  // middle of a tile whose base the warp writes next.
  MNEMOSYNE_DEVICE void FetchPositions(uint32_t first, uint32_t rows) {
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        const uint32_t row = 16 * this->warp_ + static_cast<uint32_t>(here.lane / 4 + 8 * h);
        here(positions_[h]) = *this->space_.PositionOf(first + (row < rows ? row : 0));
      }
    });
  }
  MNEMOSYNE_DEVICE void FetchMiddle(uint32_t first, uint32_t rows) {
    middle_ = waves_.Middle(first, rows);
  }
  MNEMOSYNE_DEVICE void WriteBase(uint32_t slot) const { waves_.WriteBase(slot, middle_); }

  // Answers the warp's part of a tile of `rows` queries from `first` on, which are at `raw`, and
  // their waves' base in a slot; and does what `more` does meanwhile.
  template <typename More>
  MNEMOSYNE_DEVICE void AnswerTile(uint32_t first, uint32_t rows, uint32_t raw, uint32_t slot,
                                   const More& more) {
    typename Base::Logs logs;
    const uint32_t before = 16 * this->warp_;
    const uint32_t own = rows > before ? rows - before : 0;
    const bool has_waves = this->space_.call.shape.waves > 0;
    F large[8][4];  // Of float32 rows, large products of numbers are summed apart.
    U numbers[Base::kDimSteps][2][4];
    if constexpr (Sizes::kFull) {
      SplitNumbers(raw, numbers);
      W::GroupBegin();
      MultiplyNumbers(numbers, logs[0], large);
    } else {
      W::GroupBegin();
      MNEMOSYNE_UNROLL_ALL
      for (int part = 1; part >= 0; --part) {
        MNEMOSYNE_UNROLL_ALL
        for (int s = 0; s < Base::kDimSteps; ++s) {
          W::template GroupMultiplyShared<false>(logs[0], this->space_.Words(raw), WeightsOf(part),
                                                 s, this->warp_, s > 0 || part < 1);
        }
      }
    }
    W::GroupCommit();
    if (has_waves) AddWaves(slot, logs[0]);
    W::GroupWait(logs[0]);
    if constexpr (Sizes::kFull) {
      W::GroupWait(large);
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < 8; ++m) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) logs[0][m][k] = logs[0][m][k] + large[m][k];
      }
    }
    typename Base::Weights phi;
    F below[1][2], most[1][2];
    Exponentiate(logs[0], phi[0], below[0], most[0]);
    F sums[8][4];
    W::GroupBegin();
    MNEMOSYNE_UNROLL_ALL
    for (int sum = Base::kParts - 1; sum >= 0; --sum) {
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i <= sum; ++i) {
        MNEMOSYNE_UNROLL_ALL
        for (int s = 0; s < Base::kTiles / 2; ++s) {
          const bool is_first = sum == Base::kParts - 1 && i == 0 && s == 0;
          W::template GroupMultiply<false, true>(sums, phi[0][s][i], MeansOf(sum - i), s,
                                                 !is_first);
        }
      }
    }
    W::GroupCommit();
    more();
    this->WriteNormalizers(first + before, own, most, below);
    W::GroupWait(sums);
    Write(first + before, own, sums, below[0]);
  }

 private:
  // As the quick program's, with sums and maxima of two at a time.
  MNEMOSYNE_DEVICE void Exponentiate(F (&logs)[8][4], U (&phi)[4][Sizes::kFeatureParts][4],
                                     F (&below)[2], F (&most)[2]) const {
    const float* const lifts = this->space_.Floats(this->space_.at.lifts);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < 8; ++m) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          here(logs[m][k]) += lifts[8 * m + 2 * (here.lane % 4) + k % 2];
        }
      }
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        float two[2] = {fmaxf(here(logs[0][2 * h]), here(logs[0][2 * h + 1])),
                        fmaxf(here(logs[1][2 * h]), here(logs[1][2 * h + 1]))};
        MNEMOSYNE_UNROLL_ALL
        for (int m = 2; m < 8; ++m) {
          two[m % 2] = fmaxf(two[m % 2], fmaxf(here(logs[m][2 * h]), here(logs[m][2 * h + 1])));
        }
        here(most[h]) = fmaxf(two[0], two[1]);
      }
    });
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      most[h] = W::Max(most[h], W::Exchange(most[h], 1));
      most[h] = W::Max(most[h], W::Exchange(most[h], 2));
    }
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        const float base = -kLog2OfE * here(most[h]);
        float sum = 0;
        MNEMOSYNE_UNROLL_ALL
        for (int m = 0; m < 8; ++m) {
          const float left = Exp2(fmaf(here(logs[m][2 * h]), kLog2OfE, base));
          const float right = Exp2(fmaf(here(logs[m][2 * h + 1]), kLog2OfE, base));
          sum += left + right;
          const FltPair<Sizes::kFeatureParts> pair(left, right);
          MNEMOSYNE_UNROLL_ALL
          for (int part = 0; part < Sizes::kFeatureParts; ++part) {
            here(phi[m / 2][part][m % 2 * 2 + h]) = pair.part[part];
          }
        }
        // Where there is no key, all that is left of logarithms is that.
        here(below[h]) = here(most[h]) < kFltNoKey / 2 && sum > 0 ? 0.0F : sum;
      }
    });
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      below[h] = below[h] + W::Exchange(below[h], 1);
      below[h] = below[h] + W::Exchange(below[h], 2);
    }
  }

  // The parts of float32 numbers of the warp's rows, as left sides.
  MNEMOSYNE_DEVICE void SplitNumbers(uint32_t raw, U (&numbers)[Base::kDimSteps][2][4]) const {
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int s = 0; s < Base::kDimSteps; ++s) {
        MNEMOSYNE_UNROLL_ALL
        for (int i = 0; i < 4; ++i) {
          const uint32_t row = 16 * this->warp_ + static_cast<uint32_t>(here.lane / 4 + i % 2 * 8);
          const auto at = static_cast<uint32_t>(16 * s + here.lane % 4 * 2 + i / 2 * 8);
          struct alignas(8) Two {
            float x, y;
          };
          const Two two = *reinterpret_cast<const Two*>(
              this->space_.Words(raw) + row * static_cast<uint32_t>(Sizes::kRawStride) + at);
          const FltHalfPair pair(two.x, two.y);
          here(numbers[s][0][i]) = pair.part[0];
          here(numbers[s][1][i]) = pair.part[1];
        }
      }
    });
  }
  // Their products with the weights.
  MNEMOSYNE_DEVICE void MultiplyNumbers(const U (&numbers)[Base::kDimSteps][2][4], F (&small)[8][4],
                                        F (&large)[8][4]) const {
    MNEMOSYNE_UNROLL_ALL
    for (int s = 0; s < Base::kDimSteps; ++s) {
      W::template GroupMultiply<true, false>(small, numbers[s][0], WeightsOf(1), s, s > 0);
      W::template GroupMultiply<true, false>(small, numbers[s][1], WeightsOf(0), s, true);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int s = 0; s < Base::kDimSteps; ++s) {
      W::template GroupMultiply<true, false>(large, numbers[s][0], WeightsOf(0), s, s > 0);
    }
  }

  // Divides the outputs of the warp's rows, and writes them. They are finite where denominators
  // are, because means are.
  MNEMOSYNE_DEVICE void Write(uint32_t first, uint32_t rows, const F (&sums)[8][4],
                              const F (&below)[2]) const {
    const FltQuickRows<T, Sizes> outputs(this->space_.call.arrays.out, this->space_.part,
                                         this->space_.call.shape.values);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        const auto row = static_cast<uint32_t>(here.lane / 4 + 8 * h);
        if (row >= rows) continue;
        const float sum = here(below[h]);
        const float inverse = sum > 0 && this->space_.Valid(first + row) ? Inverse(sum) : 0.0F;
        if (!(sum >= 0) || !IsFinite(sum)) T::Raise(this->space_.call.flag);
        MNEMOSYNE_UNROLL_ALL
        for (int half = 0; half < 2; ++half) {
          float x[8];
          MNEMOSYNE_UNROLL_ALL
          for (int i = 0; i < 8; ++i) x[i] = here(sums[4 * half + i / 2][2 * h + i % 2]) * inverse;
          outputs.WriteEight(first + row, static_cast<uint32_t>(32 * half + here.lane % 4 * 8), x);
        }
      }
    });
  }

  // The lanes form the waves where the products take them: cosines and sines of 16 waves are two
  // steps.
  MNEMOSYNE_DEVICE void AddWaves(uint32_t slot, F (&logs)[8][4]) const {
    MNEMOSYNE_UNROLL_ALL
    for (int half = 0; half < 2; ++half) {
      U cosines[2][4], sines[2][4];
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          MNEMOSYNE_UNROLL_ALL
          for (int i = 0; i < 2; ++i) {
            const auto wave = static_cast<uint32_t>(16 * half + here.lane % 4 * 2 + 8 * i);
            FltWavePair pairs[1];
            waves_.PairsAt(slot, here(positions_[h]), wave, pairs);
            MNEMOSYNE_UNROLL_ALL
            for (int part = 0; part < 2; ++part) {
              here(cosines[part][2 * i + h]) = pairs[0].cosines[part];
              here(sines[part][2 * i + h]) = pairs[0].sines[part];
            }
          }
        }
      });
      W::GroupBegin();
      MultiplyWaves(cosines, half, logs);
      MultiplyWaves(sines, half + 2, logs);
      W::GroupCommit();
    }
  }
  MNEMOSYNE_DEVICE void MultiplyWaves(const U (&x)[2][4], int step, F (&logs)[8][4]) const {
    W::template GroupMultiply<true, false>(logs, x[0], WeightsOf(3), step, true);
    W::template GroupMultiply<true, false>(logs, x[1], WeightsOf(2), step, true);
    W::template GroupMultiply<true, false>(logs, x[0], WeightsOf(2), step, true);
  }

 public:
  MNEMOSYNE_DEVICE const uint32_t* WeightsOf(int tile) const {
    return this->space_.Words(this->space_.at.weights +
                              static_cast<uint32_t>(tile) * Sizes::kTileWords);
  }
  MNEMOSYNE_DEVICE const uint32_t* MeansOf(int part) const {
    return this->space_.Words(this->space_.at.means +
                              static_cast<uint32_t>(part) * Sizes::kTileWords);
  }

 protected:
  const FltTileWaves<T, W, Sizes> waves_;
  F positions_[2] = {F(0.0F), F(0.0F)};
  float middle_ = 0;
};

// As AnswerAllQuickly.
template <class T, class W, class Sizes, class Team>
MNEMOSYNE_DEVICE void AnswerAllInGroup(const FltQuickSpace& space, Team& team, const float* sums) {
  constexpr uint32_t kRows = Sizes::kRows;
  const FltPart& part = space.part;
  const bool has_waves = space.call.shape.waves > 0;
  const uint32_t tiles = (part.count + kRows - 1) / kRows;
  const auto first_of = [&](uint32_t tile) { return part.first + tile * kRows; };
  const auto rows_of = [&](uint32_t tile) {
    const uint32_t rest = part.count - tile * kRows;
    return rest < kRows ? rest : kRows;
  };
  const auto raw_of = [&](uint32_t tile) { return space.at.raw + tile % 2 * Sizes::kRawWords; };
  const FltGroupTensor tensors[1] = {{space.call.arrays.q, space.call.shape.dim}};
  const auto fetch = [&](uint32_t tile) {
    if (tile >= tiles) return;
    FetchFltGroupRows<T, Sizes>(space, tensors, first_of(tile), rows_of(tile), raw_of(tile));
  };
  // The warp that writes the base of a tile's waves.
  const auto writes = [&](const auto& warp, uint32_t tile) {
    return has_waves && tile < tiles && warp.warp() == tile % 4;
  };
  const uint32_t* const biases = FetchFltGroupWeights<T, Sizes>(space);
  fetch(0);
  StageFltQuickWaves<T, Sizes>(space);
  team.Each([&](auto& warp) {
    if (has_waves) warp.FetchPositions(first_of(0), rows_of(0));
    if (writes(warp, 0)) warp.FetchMiddle(first_of(0), rows_of(0));
  });
  team.Run([&](auto& warp) {
    if (has_waves && warp.warp() == 3) warp.waves().Start();
    if (writes(warp, 0)) warp.WriteBase(0);
  });
  T::WaitForOthers();
  StageFltGroupMeans<T, Sizes>(space, sums, biases);
  T::WaitForCopies();
  team.Each([&](auto&) { W::GroupShow(); });
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    fetch(tile + 1);
    team.Run([&](auto& warp) {
      if (writes(warp, tile + 1)) warp.FetchMiddle(first_of(tile + 1), rows_of(tile + 1));
      warp.AnswerTile(first_of(tile), rows_of(tile), raw_of(tile), tile % 2, [&] {
        if (!has_waves || tile + 1 >= tiles) return;
        warp.FetchPositions(first_of(tile + 1), rows_of(tile + 1));
        if (writes(warp, tile + 1)) warp.WriteBase((tile + 1) % 2);
      });
    });
    T::WaitForCopies();
    team.Each([&](auto&) { W::GroupShow(); });
  }
}

}  // namespace mnemosyne::kernels::cuda
