// The answers to the queries of a part from the sums over all keys, as the program of a team of
// warps on tensor cores. A warp takes 16 or 32 queries at a time, by itself.
//
// Of each feature m the sums are kept as the mean of the values N_m / Psi_m and as a lift
// c_m + log Psi_m of its logarithms: out_i is then the mean of the means, weighted with
// e^(a_im + lift_m), and no weight is larger than 1 after the greatest of a query is taken off.
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_quick_fragments.h"
#include "kernels/cuda/flt_quick_rows.h"

namespace mnemosyne::kernels::cuda {

// Begins to copy the weights of queries, by all threads.
template <class T, class Sizes>
MNEMOSYNE_DEVICE const uint32_t* FetchFltWeights(const FltQuickSpace& space) {
  const uint32_t* const prepared =
      FltPrepared<Sizes>::Of(space.call, space.part.head, /*of_keys=*/false);
  constexpr uint32_t kWords = Sizes::kInputs / 2, kChunks = kWords / 4;
  T::Spread(2 * Sizes::kFeatures * kChunks, [&](uint32_t i) {
    const uint32_t row = i / kChunks, chunk = i % kChunks;
    T::Copy16(space.Words(space.at.weights) + row * Sizes::kWeightStride + 4 * chunk,
              prepared + row * kWords + 4 * chunk, 16);
  });
  return prepared + 2 * FltPrepared<Sizes>::kPartWords;
}

// Means and lifts, by all threads; `biases` are those of queries.
template <class T, class Sizes>
MNEMOSYNE_DEVICE void StageFltMeans(const FltQuickSpace& space, const float* sums,
                                    const uint32_t* biases) {
  const FltShape& shape = space.call.shape;
  T::Spread(Sizes::kFeatures, [&](uint32_t m) {
    const float bias = FloatOf(biases[m]);
    const float psi = m < shape.features ? sums[shape.features + m] : 0.0F;
    space.Floats(space.at.lifts)[m] = psi > 0    ? bias + (sums[m] + logf(psi))
                                      : psi == 0 ? kFltNoKey
                                                 : psi;  // NaN goes on.
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
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      const uint32_t i = first + k * (kPairs / kAtOnce);
      const uint32_t m = i / (Sizes::kValues / 2), pair = i % (Sizes::kValues / 2);
      const float inverse = psi[k] == 0 ? 0.0F : 1 / psi[k];
      const FltPair<Sizes::kFeatureParts> split(left[k] * inverse, right[k] * inverse);
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t part = 0; part < Sizes::kFeatureParts; ++part) {
        space.Words(space.at.means)[(part * Sizes::kFeatures + m) * Sizes::kStride + pair] =
            split.part[part];
      }
    }
  });
}

template <class T, class W, class Sizes>
class FltQuickQueries {
  using F = typename W::Floats;
  using U = typename W::Words;
  using Fragments = FltQuickFragments<W>;
  using Pair = typename Fragments::Pair;
  using Rows = FltQuickRows<T, Sizes>;

 public:
  static constexpr uint32_t kWarpRows = 16 * Sizes::kGroups;

  MNEMOSYNE_DEVICE FltQuickQueries(const FltQuickSpace& space, uint32_t warp)
      : FltQuickQueries(space, warp, space.at.raw) {}
  // Of queries that are fetched to `raw`.
  MNEMOSYNE_DEVICE FltQuickQueries(const FltQuickSpace& space, uint32_t warp, uint32_t raw)
      : space_(space), warp_(warp), raw_(raw + warp * kWarpRows * kRawStride) {}

  MNEMOSYNE_DEVICE uint32_t warp() const { return warp_; }

  // Begins to copy the queries from `first` on, `rows` of them.
  MNEMOSYNE_DEVICE void Fetch(uint32_t first, uint32_t rows) const {
    const Rows queries(space_.call.arrays.q, space_.part, space_.call.shape.dim);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < kWarpRows * Rows::kChunks / 32; ++k) {
        const uint32_t i = 32 * k + static_cast<uint32_t>(here.lane);
        const uint32_t row = i / Rows::kChunks, chunk = i % Rows::kChunks;
        const bool valid = row < rows && space_.Valid(first + row);
        queries.Fetch(first + row, chunk, valid, space_.Words(raw_) + row * kRawStride + chunk * 4);
      }
    });
  }

  // Answers the queries that are fetched, and begins to fetch `next_rows` from `next` on.
  MNEMOSYNE_DEVICE void Answer(uint32_t first, uint32_t rows, uint32_t next, uint32_t next_rows) {
    Logs logs;
    T::WaitForCopies();
    W::Sync();
    MeasureNumbers(logs);
    W::Sync();
    if (next_rows > 0) Fetch(next, next_rows);
    if (space_.call.shape.waves > 0) MeasureWaves(first, rows, logs);
    Weights phi;
    F below[kGroups][2], most[kGroups][2];
    Exponentiate<false>(logs, phi, below, most);
    WriteNormalizers(first, rows, most, below);
    Finish<true>(first, rows, phi, below, [](int, F(&)[kGroups][4]) {});
  }

  static constexpr int kGroups = Sizes::kGroups, kTiles = Sizes::kFeatures / 8;
  static constexpr int kParts = Sizes::kFeatureParts, kDimSteps = Sizes::kDim / 16;
  static constexpr int kWaveParts = Sizes::kWaveParts;
  static constexpr uint32_t kRawStride = Sizes::kRawStride, kStride = Sizes::kStride;
  static constexpr uint32_t kWeightStride = Sizes::kWeightStride;

  // Logarithms of the features of the warp's queries; their features in parts.
  using Logs = F[kGroups][kTiles][4];
  using Weights = U[kGroups][kTiles / 2][kParts][4];

  // Products of queries with the projection, of the two steps from word `word` of the weights on.
  // `x` has the two steps' left sides of each group in parts.
  template <bool kHalf, int kRowParts>
  MNEMOSYNE_DEVICE void Multiply(const U (&x)[kGroups][2][kRowParts][4], uint32_t word,
                                 Logs& logs) const {
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < kTiles; ++m) {
      Pair w[2];
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t part = 0; part < 2; ++part) {
        w[part].Load(space_.Words(space_.at.weights) + part * Sizes::kFeatures * kWeightStride,
                     kWeightStride, static_cast<uint32_t>(8 * m), word);
      }
      MNEMOSYNE_UNROLL_ALL
      for (int g = 0; g < kGroups; ++g) {
        Add(logs[g][m], [&](F(&sum)[4]) {
          Fragments::template Mma<kHalf>(sum, x[g][0][0], w[1].first);
          Fragments::template Mma<kHalf>(sum, x[g][1][0], w[1].second);
          if constexpr (kRowParts > 1) {
            Fragments::template Mma<kHalf>(sum, x[g][0][1], w[0].first);
            Fragments::template Mma<kHalf>(sum, x[g][1][1], w[0].second);
          }
          Fragments::template Mma<kHalf>(sum, x[g][0][0], w[0].first);
          Fragments::template Mma<kHalf>(sum, x[g][1][0], w[0].second);
        });
      }
    }
  }

  // Calls form(sum) to add to `to`, or to a sum of its own that is added to it.
  template <typename Form>
  static MNEMOSYNE_DEVICE void Add(F (&to)[4], const Form& form) {
    if constexpr (Sizes::kFull) {
      F sum[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
      form(sum);
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 4; ++k) to[k] = to[k] + sum[k];
    } else {
      form(to);
    }
  }

  MNEMOSYNE_DEVICE void MeasureNumbers(Logs& logs) const {
    MNEMOSYNE_UNROLL_ALL
    for (int g = 0; g < kGroups; ++g) {
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < kTiles; ++m) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) logs[g][m][k] = F(0.0F);
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (int s = 0; s < kDimSteps; s += 2) {
      U x[kGroups][2][Sizes::kRowParts][4];
      MNEMOSYNE_UNROLL_ALL
      for (int g = 0; g < kGroups; ++g) {
        MNEMOSYNE_UNROLL_ALL
        for (int i = 0; i < 2; ++i) LoadNumbers(g, s + i, x[g][i]);
      }
      Multiply<Sizes::kHalf>(x, static_cast<uint32_t>(8 * s), logs);
    }
  }

  MNEMOSYNE_DEVICE void LoadNumbers(int g, int s, U (&x)[Sizes::kRowParts][4]) const {
    const uint32_t* const raw = space_.Words(raw_) + static_cast<uint32_t>(16 * g) * kRawStride;
    if constexpr (Sizes::kFull) {
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int i = 0; i < 4; ++i) {
          const auto row = static_cast<uint32_t>(here.lane / 4 + i % 2 * 8);
          const auto at = static_cast<uint32_t>(16 * s + here.lane % 4 * 2 + i / 2 * 8);
          struct alignas(8) Two {
            float x, y;
          };
          const Two two = *reinterpret_cast<const Two*>(raw + row * kRawStride + at);
          const FltHalfPair pair(two.x, two.y);
          here(x[0][i]) = pair.part[0];
          here(x[1][i]) = pair.part[1];
        }
      });
    } else {
      Fragments::LoadLeft(x[0], raw, kRawStride, 0, static_cast<uint32_t>(8 * s));
    }
  }

  // The same where waves of the tile are staged in shared memory.
  MNEMOSYNE_DEVICE void MeasureStagedWaves(Logs& logs) const {
    static_assert(kGroups == 1 || Sizes::kRows == 32);
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t s = 0; s < Sizes::kWaves / 8; ++s) {
      U x[kGroups][kWaveParts][4];
      MNEMOSYNE_UNROLL_ALL
      for (int g = 0; g < kGroups; ++g) {
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t part = 0; part < kWaveParts; ++part) {
          Fragments::LoadLeft(x[g][part],
                              space_.Words(space_.at.waves) + part * Sizes::kRows * kStride,
                              kStride, warp_ * kWarpRows + static_cast<uint32_t>(16 * g), 8 * s);
        }
      }
      MultiplyWaves(x, Sizes::kDim / 2 + 8 * s, logs);
    }
  }

  // The lanes form the waves where the products take them: cosines and sines of 16 waves are two
  // steps.
  MNEMOSYNE_DEVICE void MeasureWaves(uint32_t first, uint32_t rows, Logs& logs) const {
    const FltShape& shape = space_.call.shape;
    MNEMOSYNE_UNROLL_ALL
    for (int half = 0; half < Sizes::kWaves / 16; ++half) {
      U cosines[kGroups][kWaveParts][4], sines[kGroups][kWaveParts][4];
      MNEMOSYNE_UNROLL_ALL
      for (int g = 0; g < kGroups; ++g) {
        W::Each([&](auto here) {
          MNEMOSYNE_UNROLL_ALL
          for (int i = 0; i < 4; ++i) {
            const auto row = static_cast<uint32_t>(16 * g + here.lane / 4 + i % 2 * 8);
            const auto wave = static_cast<uint32_t>(16 * half + here.lane % 4 * 2 + i / 2 * 8);
            const float* const at = space_.PositionOf(first + (row < rows ? row : 0));
            const FltWavePair pair =
                FltWavePair::At<Sizes>(shape, space_.Floats(space_.at.frequencies),
                                       space_.Floats(space_.at.origin), at, wave);
            MNEMOSYNE_UNROLL_ALL
            for (int part = 0; part < kWaveParts; ++part) {
              here(cosines[g][part][i]) = pair.cosines[part];
              here(sines[g][part][i]) = pair.sines[part];
            }
          }
        });
      }
      const auto word = static_cast<uint32_t>(Sizes::kDim / 2 + 8 * half);
      MultiplyWaves(cosines, word, logs);
      MultiplyWaves(sines, word + Sizes::kWaves / 2, logs);
    }
  }

  // One step of it.
  MNEMOSYNE_DEVICE void MultiplyWaves(const U (&x)[kGroups][kWaveParts][4], uint32_t word,
                                      Logs& logs) const {
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < kTiles; ++m) {
      // Both parts of the weights at once: what are two steps elsewhere are two matrices here.
      typename W::Ints at;
      W::Each([&](auto here) {
        const auto lane = static_cast<uint32_t>(here.lane);
        here(at) = static_cast<int>(
            (lane / 16 * Sizes::kFeatures + static_cast<uint32_t>(8 * m) + lane % 8) *
                kWeightStride +
            word + lane / 8 % 2 * 4);
      });
      U w[4];
      W::LoadMatrices(w, space_.Words(space_.at.weights), at);
      const U large[2] = {w[0], w[1]}, small[2] = {w[2], w[3]};
      MNEMOSYNE_UNROLL_ALL
      for (int g = 0; g < kGroups; ++g) {
        Add(logs[g][m], [&](F(&sum)[4]) {
          W::MmaHalf(sum, x[g][0], small);
          if constexpr (kWaveParts > 1) W::MmaHalf(sum, x[g][1], large);
          W::MmaHalf(sum, x[g][0], large);
        });
      }
    }
  }

  // Logarithms become weights, in parts; `below` has the sums of each row's, times Psi if that is
  // no part of the lifts, and `greatest` what was taken off the logarithms.
  template <bool kWithPsi>
  MNEMOSYNE_DEVICE void Exponentiate(Logs& logs, Weights& phi, F (&below)[kGroups][2],
                                     F (&greatest)[kGroups][2]) const {
    const float* const lifts = space_.Floats(space_.at.lifts);
    const float* const psi = space_.Floats(space_.at.psi);
    MNEMOSYNE_UNROLL_ALL
    for (int g = 0; g < kGroups; ++g) {
      F(&most)[2] = greatest[g];
      most[0] = most[1] = F(3 * kFltNoKey);
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int m = 0; m < kTiles; ++m) {
          MNEMOSYNE_UNROLL_ALL
          for (int k = 0; k < 4; ++k) {
            float& log = here(logs[g][m][k]);
            log += lifts[8 * m + 2 * (here.lane % 4) + k % 2];
            here(most[k / 2]) = fmaxf(here(most[k / 2]), log);
          }
        }
      });
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        most[h] = W::Max(most[h], W::Exchange(most[h], 1));
        most[h] = W::Max(most[h], W::Exchange(most[h], 2));
      }
      W::Each([&](auto here) {
        const float base[2] = {-kLog2OfE * here(most[0]), -kLog2OfE * here(most[1])};
        here(below[g][0]) = here(below[g][1]) = 0;
        MNEMOSYNE_UNROLL_ALL
        for (int m = 0; m < kTiles; ++m) {
          MNEMOSYNE_UNROLL_ALL
          for (int k = 0; k < 4; ++k) {
            float& log = here(logs[g][m][k]);
            log = Exp2(fmaf(log, kLog2OfE, base[k / 2]));
            float& sum = here(below[g][k / 2]);
            if constexpr (kWithPsi) {
              sum = fmaf(log, psi[8 * m + 2 * (here.lane % 4) + k % 2], sum);
            } else {
              sum += log;
            }
          }
          MNEMOSYNE_UNROLL_ALL
          for (int h = 0; h < 2; ++h) {
            const FltPair<kParts> pair(here(logs[g][m][2 * h]), here(logs[g][m][2 * h + 1]));
            MNEMOSYNE_UNROLL_ALL
            for (int part = 0; part < kParts; ++part) {
              here(phi[g][m / 2][part][m % 2 * 2 + h]) = pair.part[part];
            }
          }
        }
        // Where there is no key, all that is left of logarithms is that.
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          if (here(most[h]) < kFltNoKey / 2 && here(below[g][h]) > 0) here(below[g][h]) = 0;
        }
      });
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        below[g][h] = below[g][h] + W::Exchange(below[g][h], 1);
        below[g][h] = below[g][h] + W::Exchange(below[g][h], 2);
      }
    }
  }

  // What the backward pass needs, if it is wanted. Logarithms lack the halves of the queries'
  // squares, which are no part of outputs; the queries are read again for them.
  MNEMOSYNE_DEVICE void WriteNormalizers(uint32_t first, uint32_t rows, const F (&most)[kGroups][2],
                                         const F (&below)[kGroups][2]) const {
    const FltCall& call = space_.call;
    if (call.arrays.normalizers == nullptr) return;
    const Rows queries(call.arrays.q, space_.part, call.shape.dim);
    MNEMOSYNE_UNROLL_ALL
    for (int g = 0; g < kGroups; ++g) {
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        F square;
        W::Each([&](auto here) {
          const auto row = static_cast<uint32_t>(16 * g + here.lane / 4 + 8 * h);
          here(square) = 0;
          if (row >= rows || !space_.Valid(first + row)) return;
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t i = 0; i < Sizes::kDim / 32; ++i) {
            float x[8];
            queries.ReadEight(first + row, 32 * i + static_cast<uint32_t>(here.lane % 4 * 8), x);
            MNEMOSYNE_UNROLL_ALL
            for (int k = 0; k < 8; ++k) here(square) = fmaf(x[k], x[k], here(square));
          }
        });
        square = square + W::Exchange(square, 1);
        square = square + W::Exchange(square, 2);
        const float half = 0.5F * call.weights.root_scale * call.weights.root_scale;
        W::Each([&](auto here) {
          const auto row = static_cast<uint32_t>(16 * g + here.lane / 4 + 8 * h);
          if (row >= rows || here.lane % 4 != 0) return;
          const size_t head = size_t{space_.part.batch} * call.shape.heads + space_.part.head;
          float* const to = call.arrays.normalizers + 2 * (head * call.arrays.length + first + row);
          const float sum = here(below[g][h]);
          to[0] = fmaf(-half, here(square), here(most[g][h]));
          to[1] = sum > 0 && space_.Valid(first + row) ? sum : 0.0F;
        });
      }
    }
  }

  // Multiplies with the means, adds what more(tile, sums) adds to a tile of columns, divides, and
  // writes. Columns of the means are in the order of FltQuickColumn, or in their own.
  template <bool kSideBySide, typename More>
  MNEMOSYNE_DEVICE void Finish(uint32_t first, uint32_t rows, const Weights& phi,
                               const F (&below)[kGroups][2], const More& more) const {
    MNEMOSYNE_UNROLL_ALL
    for (int half = 0; half < 2; ++half) {
      if (half > 0 && space_.call.shape.values <= 32) break;
      F out[kGroups][4][4];
      MNEMOSYNE_UNROLL_ALL
      for (int v = 0; v < 4; ++v) {
        F sums[kGroups][4];
        MNEMOSYNE_UNROLL_ALL
        for (int g = 0; g < kGroups; ++g) {
          MNEMOSYNE_UNROLL_ALL
          for (int k = 0; k < 4; ++k) sums[g][k] = F(0.0F);
        }
        MNEMOSYNE_UNROLL_ALL
        for (int m = 0; m < kTiles / 2; m += 2) MultiplyMeans(phi, m, 4 * half + v, sums);
        more(4 * half + v, sums);
        MNEMOSYNE_UNROLL_ALL
        for (int g = 0; g < kGroups; ++g) {
          MNEMOSYNE_UNROLL_ALL
          for (int k = 0; k < 4; ++k) out[g][v][k] = sums[g][k];
        }
      }
      WriteHalf<kSideBySide>(first, rows, half, out, below);
    }
  }

  // Divides four tiles of columns, and writes them.
  template <bool kSideBySide>
  MNEMOSYNE_DEVICE void WriteHalf(uint32_t first, uint32_t rows, int half,
                                  const F (&out)[kGroups][4][4],
                                  const F (&below)[kGroups][2]) const {
    const Rows outputs(space_.call.arrays.out, space_.part, space_.call.shape.values);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int g = 0; g < kGroups; ++g) {
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const auto row = static_cast<uint32_t>(16 * g + here.lane / 4 + 8 * h);
          if (row >= rows) continue;
          const float sum = here(below[g][h]);
          const float inverse = sum > 0 && space_.Valid(first + row) ? 1 / sum : 0.0F;
          float x[8], check = sum;
          MNEMOSYNE_UNROLL_ALL
          for (int i = 0; i < 8; ++i) {
            x[i] = here(out[g][i / 2][2 * h + i % 2]) * inverse;
            check = fmaf(x[i], 0.0F, check);
          }
          if (!(check >= 0)) T::Raise(space_.call.flag);
          if constexpr (kSideBySide) {
            outputs.WriteEight(first + row, static_cast<uint32_t>(32 * half + here.lane % 4 * 8),
                               x);
          } else {
            MNEMOSYNE_UNROLL_ALL
            for (int v = 0; v < 4; ++v) {
              const auto column = static_cast<uint32_t>(32 * half + 8 * v + here.lane % 4 * 2);
              outputs.WriteTwo(first + row, column, x[2 * v], x[2 * v + 1]);
            }
          }
        }
      }
    });
  }

  MNEMOSYNE_DEVICE void MultiplyMeans(const Weights& phi, int m, int tile,
                                      F (&out)[kGroups][4]) const {
    U below[kParts][2], above[kParts][2];
    MNEMOSYNE_UNROLL_ALL
    for (int part = 0; part < kParts; ++part) {
      Pair pair;
      pair.LoadDown(
          space_.Words(space_.at.means) + static_cast<uint32_t>(part * Sizes::kFeatures) * kStride,
          kStride, static_cast<uint32_t>(16 * m), static_cast<uint32_t>(4 * tile));
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 2; ++i) {
        below[part][i] = pair.first[i];
        above[part][i] = pair.second[i];
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (int g = 0; g < kGroups; ++g) {
      Add(out[g], [&](F(&sum)[4]) {
        Fragments::template MultiplyParts<kParts, kParts>(sum, phi[g][m], below);
        Fragments::template MultiplyParts<kParts, kParts>(sum, phi[g][m + 1], above);
      });
    }
  }

 protected:
  const FltQuickSpace& space_;
  const uint32_t warp_, raw_;
};

// Answers the part's queries from `sums`, which are there when T::WaitForOthers returns.
template <class T, class Sizes, class Team>
MNEMOSYNE_DEVICE void AnswerAllQuickly(const FltQuickSpace& space, Team& team, const float* sums) {
  const FltPart& part = space.part;
  constexpr uint32_t kWarp = 16 * Sizes::kGroups, kAll = kWarp * Sizes::kAnswerWarps;
  const auto rows_at = [&](uint32_t at) {
    return at >= part.count ? 0 : part.count - at < kWarp ? part.count - at : kWarp;
  };
  const uint32_t* const biases = FetchFltWeights<T, Sizes>(space);
  team.Run([&](auto& warp) {
    const uint32_t begin = kWarp * warp.warp();
    if (begin < part.count) warp.Fetch(part.first + begin, rows_at(begin));
  });
  StageFltQuickWaves<T, Sizes>(space);
  T::WaitForOthers();
  StageFltMeans<T, Sizes>(space, sums, biases);
  T::WaitForCopies();
  team.Each([&](auto&) {});
  team.Run([&](auto& warp) {
    for (uint32_t at = kWarp * warp.warp(); at < part.count; at += kAll) {
      warp.Answer(part.first + at, rows_at(at), part.first + at + kAll, rows_at(at + kAll));
    }
  });
}

}  // namespace mnemosyne::kernels::cuda
