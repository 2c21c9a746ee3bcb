// The sums over the keys of a part as the program of a group of four warps: see flt_group_sizes.h
// and flt_quick_keys.h. While the products of a tile of 64 rows are formed, the warps stage the
// waves of the next.
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <stdint.h>

#include "kernels/cuda/flt_group_waves.h"
#include "kernels/cuda/flt_quick_keys.h"

namespace mnemosyne::kernels::cuda {

template <class T, class W, class Sizes>
class FltGroupKeys : public FltQuickKeys<T, W, Sizes> {
  using Base = FltQuickKeys<T, W, Sizes>;
  using F = typename W::Floats;
  struct alignas(16) Four {
    uint32_t x[4];
  };

 public:
  MNEMOSYNE_DEVICE FltGroupKeys(const FltQuickSpace& space, uint32_t warp)
      : Base(space, warp), waves_(space) {}

  MNEMOSYNE_DEVICE uint32_t warp() const { return this->warp_; }
  MNEMOSYNE_DEVICE const FltTileWaves<T, W, Sizes>& waves() const { return waves_; }

  // Reads the positions of the warp's rows of the tile that waves are staged of next; and that in
  // the middle of a tile whose base the warp writes next.
  MNEMOSYNE_DEVICE void FetchPositions(uint32_t first, uint32_t rows) {
    W::Each([&](auto here) {
      const uint32_t row = RowOf(here.lane);
      here(position_) = row < rows ? *this->space_.PositionOf(first + row) : 0.0F;
    });
  }
  MNEMOSYNE_DEVICE void FetchMiddle(uint32_t first, uint32_t rows) {
    middle_ = waves_.Middle(first, rows);
  }
  MNEMOSYNE_DEVICE void WriteBase(uint32_t slot) const { waves_.WriteBase(slot, middle_); }

  // Waves of `rows` rows of the tile whose positions are read, from the base of one slot to
  // another; zeros of other rows. Half of the lanes take the first half of the waves of 16 rows.
  MNEMOSYNE_DEVICE void StageWaves(uint32_t rows, uint32_t slot, uint32_t to_slot) const {
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      const uint32_t row = RowOf(here.lane);
      const float position = here(position_);
      if (!(fabsf(position) <= kFltPositionLimit)) T::Raise(this->space_.call.flag);
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < 2; ++k) {
        const uint32_t word = lane / 16 * 8 + 4 * k;
        FltWavePair pairs[4] = {};
        if (row < rows) waves_.PairsAt(slot, position, 2 * word, pairs);
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t part = 0; part < 2; ++part) {
          uint32_t* const to = WavesOf(to_slot, part);
          Four cosines, sines;
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t i = 0; i < 4; ++i) {
            cosines.x[i] = pairs[i].cosines[part];
            sines.x[i] = pairs[i].sines[part];
          }
          *reinterpret_cast<Four*>(to + FltGroupWord(row, word)) = cosines;
          *reinterpret_cast<Four*>(to + FltGroupWord(row, word + 16)) = sines;
        }
      }
    });
  }

  // Logarithms of the features of the tile at `raw`, whose waves are in a slot, but for halves of
  // squares, which are staged meanwhile; and what `more` does.
  template <typename More>
  MNEMOSYNE_DEVICE void Measure(uint32_t first, uint32_t rows, uint32_t raw, uint32_t slot,
                                const More& more) {
    Multiply(raw, slot);
    StageSquares(first, rows, raw);
    more();
    Wait();
  }

  // Begins to form them: small products first, and of float32 rows the large ones of numbers apart,
  // because units cut sums off.
  MNEMOSYNE_DEVICE void Multiply(uint32_t raw, uint32_t slot) {
    const uint32_t* const x = XOf(raw, 0);
    const uint32_t *const near = WavesOf(slot, 0), *const rest = WavesOf(slot, 1);
    constexpr int kDims = Base::kDimSteps, kAll = Base::kSteps;
    W::GroupBegin();
    MNEMOSYNE_UNROLL_ALL
    for (int s = 0; s < kDims; ++s) {
      W::template GroupMultiply<Sizes::kHalf, false>(logs_, this->weights_[s][1], x, s, s > 0);
      if constexpr (Sizes::kRowParts > 1) {
        W::template GroupMultiply<Sizes::kHalf, false>(logs_, this->weights_[s][0], XOf(raw, 1), s,
                                                       true);
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (int s = kDims; s < kAll; ++s) {
      W::template GroupMultiply<true, false>(logs_, this->weights_[s][1], near, s - kDims, true);
      W::template GroupMultiply<true, false>(logs_, this->weights_[s][0], rest, s - kDims, true);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int s = kDims; s < kAll; ++s) {
      W::template GroupMultiply<true, false>(logs_, this->weights_[s][0], near, s - kDims, true);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int s = 0; s < kDims; ++s) {
      if constexpr (Sizes::kFull) {
        W::template GroupMultiply<true, false>(large_, this->weights_[s][0], x, s, s > 0);
      } else {
        W::template GroupMultiply<Sizes::kHalf, false>(logs_, this->weights_[s][0], x, s, true);
      }
    }
    W::GroupCommit();
  }
  // Waits for them, and adds up what was apart.
  MNEMOSYNE_DEVICE void Wait() {
    W::GroupWait(logs_);
    if constexpr (Sizes::kFull) {
      W::GroupWait(large_);
      MNEMOSYNE_UNROLL_ALL
      for (int j = 0; j < Base::kKeyTiles; ++j) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) logs_[j][k] = logs_[j][k] + large_[j][k];
      }
    }
  }

  // Adds these keys to the sums, after all halves are staged. The biases of features are part of
  // their maxima in the end.
  MNEMOSYNE_DEVICE void AddTile(uint32_t raw) {
    SubtractHalves();
    RaiseTo(Most());
    typename Base::Features phi;
    Exponentiate(phi);
    AddValues(Sizes::kFull ? this->space_.at.values : raw + Sizes::kTileWords, phi);
  }

  // The greatest logarithm of each feature, found in two halves of keys at once.
  struct Pair {
    F of[2];
  };
  MNEMOSYNE_DEVICE Pair Most() const {
    Pair most;
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      F two[2] = {W::Max(logs_[0][2 * h], logs_[0][2 * h + 1]),
                  W::Max(logs_[1][2 * h], logs_[1][2 * h + 1])};
      MNEMOSYNE_UNROLL_ALL
      for (int j = 2; j < Base::kKeyTiles; ++j) {
        two[j % 2] = W::Max(two[j % 2], W::Max(logs_[j][2 * h], logs_[j][2 * h + 1]));
      }
      most.of[h] = this->MostOfFour(W::Max(two[0], two[1]));
    }
    return most;
  }
  // As Raise.
  MNEMOSYNE_DEVICE void RaiseTo(const Pair& most) {
    if (!W::Any(this->maxima_[0] < most.of[0]) && !W::Any(this->maxima_[1] < most.of[1])) return;
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      F factor;
      W::Each([&](auto here) {
        const float next = fmaxf(here(this->maxima_[h]), here(most.of[h]));
        here(factor) = Exp2((here(this->maxima_[h]) - next) * kLog2OfE);
        here(this->maxima_[h]) = next;
      });
      this->psi_[h] = this->psi_[h] * factor;
      MNEMOSYNE_UNROLL_ALL
      for (int v = 0; v < 8; ++v) {
        this->n_[v][2 * h] = this->n_[v][2 * h] * factor;
        this->n_[v][2 * h + 1] = this->n_[v][2 * h + 1] * factor;
      }
    }
  }
  // Features relative to the maxima, in parts; adds them to Psi, two at a time.
  MNEMOSYNE_DEVICE void Exponentiate(typename Base::Features& phi) {
    W::Each([&](auto here) {
      float sums[2] = {0, 0};
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        // Padding is 0 even where there is no key yet.
        const float base = -kLog2OfE * fmaxf(here(this->maxima_[h]), kFltNoKey / 2);
        MNEMOSYNE_UNROLL_ALL
        for (int j = 0; j < Base::kKeyTiles; ++j) {
          const float left = Exp2(fmaf(here(logs_[j][2 * h]), kLog2OfE, base));
          const float right = Exp2(fmaf(here(logs_[j][2 * h + 1]), kLog2OfE, base));
          sums[h] += left + right;
          const FltPair<Sizes::kFeatureParts> pair(left, right);
          MNEMOSYNE_UNROLL_ALL
          for (int part = 0; part < Sizes::kFeatureParts; ++part) {
            here(phi[j / 2][part][j % 2 * 2 + h]) = pair.part[part];
          }
        }
        here(this->psi_[h]) += sums[h];
      }
    });
  }

  MNEMOSYNE_DEVICE void SubtractHalves() {
    const float* const halves = this->Halves();
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int j = 0; j < Base::kKeyTiles; ++j) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          here(logs_[j][k]) -= halves[8 * j + 2 * (here.lane % 4) + k % 2];
        }
      }
    });
  }

  // Adds the values of a tile, whose parts lie from `at` on.
  MNEMOSYNE_DEVICE void AddValues(uint32_t at, const typename Base::Features& phi) {
    if constexpr (Sizes::kFull) {
      F sums[8][4];
      MultiplyValues(at, phi, sums, false);
      MNEMOSYNE_UNROLL_ALL
      for (int v = 0; v < 8; ++v) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) this->n_[v][k] = this->n_[v][k] + sums[v][k];
      }
    } else {
      MultiplyValues(at, phi, this->n_, true);
    }
  }
  MNEMOSYNE_DEVICE void MultiplyValues(uint32_t at, const typename Base::Features& phi,
                                       F (&sums)[8][4], bool keep) const {
    constexpr int kLeft = Sizes::kFeatureParts, kRight = Sizes::kValueParts;
    constexpr int kMost = (kLeft > kRight ? kLeft : kRight) - 1;
    W::GroupBegin();
    MNEMOSYNE_UNROLL_ALL
    for (int sum = kMost; sum >= 0; --sum) {
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < kLeft; ++i) {
        if (i > sum || sum - i >= kRight) continue;
        const uint32_t* const values =
            this->space_.Words(at + static_cast<uint32_t>(sum - i) * Sizes::kTileWords);
        MNEMOSYNE_UNROLL_ALL
        for (int s = 0; s < Base::kKeyTiles / 2; ++s) {
          const bool is_first =
              sum == kMost && s == 0 && i == (kMost >= kRight ? kMost - kRight + 1 : 0);
          W::template GroupMultiply<false, true>(sums, phi[s][i], values, s, keep || !is_first);
        }
      }
    }
    W::GroupCommit();
    W::GroupWait(sums);
  }

  // Parts of float32 numbers of the warp's 16 rows, and halves of squares.
  MNEMOSYNE_DEVICE void SplitRows(uint32_t first, uint32_t rows, uint32_t raw) const {
    F squares;
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      const uint32_t row = 16 * this->warp_ + lane % 16;
      const uint32_t* const keys = this->space_.Words(raw);
      const uint32_t* const values = keys + Sizes::kRawWords;
      float square = 0;
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t chunk = lane / 16 * 4 + i;  // Of 8 numbers.
        float x[8];
        ReadEight(keys, row, chunk, x);
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 8; ++k) square = fmaf(x[k], x[k], square);
        Store<FltHalfPair, 2>(this->space_.at.x, row, chunk, x);
        ReadEight(values, row, chunk, x);
        Store<FltPair<Sizes::kValueParts>, Sizes::kValueParts>(this->space_.at.values, row, chunk,
                                                               x);
      }
      here(squares) = square;
    });
    StageHalves(first, rows, squares);
  }

  // Halves of the squares of the warp's 16 rows.
  MNEMOSYNE_DEVICE void StageSquares(uint32_t first, uint32_t rows, uint32_t raw) const {
    F squares;
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      const uint32_t row = 16 * this->warp_ + lane % 16;
      float sums[2] = {0, 0};
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t i = 0; i < 4; ++i) {
        const Four four = *reinterpret_cast<const Four*>(
            this->space_.Words(raw) + FltGroupWord(row, 16 * (lane / 16) + 4 * i));
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t k = 0; k < 4; ++k) {
          const float low = FloatOf(four.x[k] << 16U), high = FloatOf(four.x[k] & 0xFFFF0000U);
          sums[0] = fmaf(low, low, sums[0]);
          sums[1] = fmaf(high, high, sums[1]);
        }
      }
      here(squares) = sums[0] + sums[1];
    });
    StageHalves(first, rows, squares);
  }

  // Of rows whose two lanes have parts of their squares.
  MNEMOSYNE_DEVICE void StageHalves(uint32_t first, uint32_t rows, F squares) const {
    squares = squares + W::Exchange(squares, 16);
    const float scale = this->space_.call.weights.root_scale;
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      const uint32_t row = 16 * this->warp_ + lane;
      if (lane >= 16) return;
      const bool valid = row < rows && this->space_.Valid(first + row);
      const float half = 0.5F * scale * scale * here(squares);
      if (!IsFinite(half)) T::Raise(this->space_.call.flag);
      this->Halves()[row] = valid ? half : kFltQuickNoRow;
    });
  }

  MNEMOSYNE_DEVICE void Finish(float* sums) {
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        float& maximum = here(this->maxima_[h]);
        if (maximum > kFltNoKey / 2) maximum += here(this->bias_[h]);
      }
    });
    this->StoreSums(sums);
  }

  // Where a part of the keys is.
  MNEMOSYNE_DEVICE const uint32_t* XOf(uint32_t raw, uint32_t part) const {
    return this->space_.Words(Sizes::kFull ? this->space_.at.x + part * Sizes::kTileWords : raw);
  }
  static MNEMOSYNE_DEVICE void ReadEight(const uint32_t* tile, uint32_t row, uint32_t chunk,
                                         float (&x)[8]) {
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t i = 0; i < 2; ++i) {
      const Four four =
          *reinterpret_cast<const Four*>(tile + FltGroupChunk<Sizes>(row, 2 * chunk + i));
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < 4; ++k) x[4 * i + k] = FloatOf(four.x[k]);
    }
  }
  // Stores the parts of eight numbers to matrices from `at` on.
  template <class Pair, uint32_t kParts>
  MNEMOSYNE_DEVICE void Store(uint32_t at, uint32_t row, uint32_t chunk,
                              const float (&x)[8]) const {
    Four parts[kParts];
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t k = 0; k < 4; ++k) {
      const Pair pair(x[2 * k], x[2 * k + 1]);
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t part = 0; part < kParts; ++part) parts[part].x[k] = pair.part[part];
    }
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t part = 0; part < kParts; ++part) {
      uint32_t* const to = this->space_.Words(at + part * Sizes::kTileWords);
      *reinterpret_cast<Four*>(to + FltGroupWord(row, 4 * chunk)) = parts[part];
    }
  }

  MNEMOSYNE_DEVICE uint32_t* WavesOf(uint32_t slot, uint32_t part) const {
    return this->space_.Words(this->space_.at.waves + (2 * slot + part) * Sizes::kTileWords);
  }

 protected:
  // Of the warp's 16 rows, of which two lanes have one.
  MNEMOSYNE_DEVICE uint32_t RowOf(int lane) const {
    return 16 * this->warp_ + static_cast<uint32_t>(lane) % 16;
  }

  const FltTileWaves<T, W, Sizes> waves_;
  F position_ = F(0.0F);
  float middle_ = 0;
  F logs_[Base::kKeyTiles][4];  // Of a tile: [16 features, 64 keys].
  F large_[Base::kKeyTiles][4];
};

// A tensor with the width of its rows.
struct FltGroupTensor {
  const FltTensor& tensor;
  uint32_t width;
};

// Begins to copy a tile of rows of some tensors to `to`, one after the other; by all threads. Whole
// tiles of whole rows, which most are, take few instructions.
template <class T, class Sizes, int kCount>
MNEMOSYNE_DEVICE void FetchFltGroupRows(const FltQuickSpace& space,
                                        const FltGroupTensor (&tensors)[kCount], uint32_t first,
                                        uint32_t rows, uint32_t to) {
  using Rows = FltQuickRows<T, Sizes>;
  constexpr uint32_t kStep = 128 / Rows::kChunks;  // Rows that are fetched at a time.
  constexpr uint32_t kStepWords = kStep * (Sizes::kRawWords / Sizes::kRows);
  const bool full = rows == Sizes::kRows && space.call.arrays.mask == nullptr;
  T::Spread(kStep * Rows::kChunks, [&](uint32_t i) {
    const uint32_t row = i / Rows::kChunks, chunk = i % Rows::kChunks;
    MNEMOSYNE_UNROLL_ALL
    for (int t = 0; t < kCount; ++t) {
      const Rows from(tensors[t].tensor, space.part, tensors[t].width);
      uint32_t* const place = space.Words(to + static_cast<uint32_t>(t) * Sizes::kRawWords) +
                              FltGroupChunk<Sizes>(row, chunk);
      if (full && from.Whole()) {
        const char* const at = from.ChunkAt(first + row, chunk);
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t k = 0; k < Sizes::kRows / kStep; ++k) {
          T::Copy16(place + k * kStepWords, at + k * kStep * from.stride(), 16);
        }
        continue;
      }
      MNEMOSYNE_ROLLED
      for (uint32_t k = 0; k < Sizes::kRows / kStep; ++k) {
        const uint32_t own = row + k * kStep;
        const bool valid = own < rows && space.Valid(first + own);
        from.Fetch(first + own, chunk, valid, place + k * kStepWords);
      }
    }
  });
}

// As AddKeysQuickly.
template <class T, class W, class Sizes, class Team>
MNEMOSYNE_DEVICE void AddKeysInGroup(const FltQuickSpace& space, Team& team, float* sums) {
  constexpr uint32_t kRows = Sizes::kRows;
  const FltPart& part = space.part;
  const FltArrays& arrays = space.call.arrays;
  const bool has_waves = space.call.shape.waves > 0;
  const uint32_t tiles = (part.count + kRows - 1) / kRows;
  const auto first_of = [&](uint32_t tile) { return part.first + tile * kRows; };
  const auto rows_of = [&](uint32_t tile) {
    const uint32_t rest = part.count - tile * kRows;
    return rest < kRows ? rest : kRows;
  };
  const auto raw_of = [&](uint32_t tile) {
    return Sizes::kFull ? space.at.raw : space.at.raw + tile % 2 * 2 * Sizes::kRawWords;
  };
  const FltGroupTensor tensors[2] = {{arrays.k, space.call.shape.dim},
                                     {arrays.v, space.call.shape.values}};
  const auto fetch = [&](uint32_t tile) {
    if (tile >= tiles) return;
    FetchFltGroupRows<T, Sizes>(space, tensors, first_of(tile), rows_of(tile), raw_of(tile));
  };
  // The warp that writes the base of a tile's waves.
  const auto writes = [&](const auto& warp, uint32_t tile) {
    return has_waves && tile < tiles && warp.warp() == tile % 4;
  };
  fetch(0);
  StageFltQuickWaves<T, Sizes>(space);
  team.Each([&](auto& warp) {
    if (has_waves) warp.FetchPositions(first_of(0), rows_of(0));
    for (uint32_t tile = 0; tile < 2; ++tile) {
      if (writes(warp, tile)) warp.FetchMiddle(first_of(tile), rows_of(tile));
    }
    warp.Start();
  });
  team.Each([&](auto& warp) {
    if (has_waves && warp.warp() == 3) warp.waves().Start();
    for (uint32_t tile = 0; tile < 2; ++tile) {
      if (writes(warp, tile)) warp.WriteBase(tile);
    }
  });
  T::WaitForCopies();
  team.Each([&](auto& warp) {
    // Zeros are staged once.
    warp.StageWaves(has_waves ? rows_of(0) : 0, 0, 0);
    if (!has_waves && !Sizes::kFull) warp.StageWaves(0, 0, 1);
    if (has_waves && tiles > 1) warp.FetchPositions(first_of(1), rows_of(1));
    W::GroupShow();
  });
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    if constexpr (Sizes::kFull) {
      // What is staged takes the place of the tile before.
      team.Each([&](auto& warp) {
        warp.SplitRows(first_of(tile), rows_of(tile), raw_of(tile));
        if (has_waves && tile > 0) {
          warp.StageWaves(rows_of(tile), 0, 0);
          if (tile + 1 < tiles) warp.FetchPositions(first_of(tile + 1), rows_of(tile + 1));
        }
        W::GroupShow();
      });
      fetch(tile + 1);
      team.Run([&](auto& warp) {
        warp.Multiply(raw_of(tile), 0);
        warp.Wait();
      });
    } else {
      fetch(tile + 1);
      team.Each([&](auto& warp) {
        if (writes(warp, tile + 2)) warp.FetchMiddle(first_of(tile + 2), rows_of(tile + 2));
        warp.Measure(first_of(tile), rows_of(tile), raw_of(tile), tile % 2, [&] {
          if (!has_waves || tile + 1 >= tiles) return;
          warp.StageWaves(rows_of(tile + 1), (tile + 1) % 2, (tile + 1) % 2);
          if (tile + 2 < tiles) warp.FetchPositions(first_of(tile + 2), rows_of(tile + 2));
          if (writes(warp, tile + 2)) warp.WriteBase(tile % 2);
        });
      });
    }
    team.Run([&](auto& warp) { warp.AddTile(raw_of(tile)); });
    T::WaitForCopies();
    team.Each([&](auto&) { W::GroupShow(); });
  }
  team.Run([&](auto& warp) { warp.Finish(sums); });
}

}  // namespace mnemosyne::kernels::cuda
