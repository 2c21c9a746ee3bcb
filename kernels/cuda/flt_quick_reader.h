// What the rows of one side, the readers, get from the sums over the other side in the quick
// program's backward pass: a warp takes 16 rows at a time. Readers are queries, which read sums
// over keys, or keys, which read sums over queries; values are extended by a number, see
// FltRowNumber, so that of a reader r and another row s
//
//   G_rs = y_r . y_s + w_r w_s,    d phi(r)_m = y_r . S_m + w_r s_m,    S, s = sums of phi(s) (y_s,
//   w_s)
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_quick_fragments.h"
#include "kernels/cuda/flt_quick_queries.h"
#include "kernels/cuda/flt_quick_rows.h"

namespace mnemosyne::kernels::cuda {

struct FltSideSpace : FltQuickSpace {
  const FltSide& side;
};

template <class T, class W, class Sizes>
class FltQuickReader {
  using F = typename W::Floats;
  using U = typename W::Words;
  using Fragments = FltQuickFragments<W>;
  using Pair = typename Fragments::Pair;
  using Rows = FltQuickRows<T, Sizes>;
  using Queries = FltQuickQueries<T, W, Sizes>;
  static_assert(Queries::kGroups == 1);

 public:
  static constexpr uint32_t kWarpRows = 16;
  static constexpr int kTiles = Sizes::kFeatures / 8;
  static constexpr int kValueParts = Sizes::kValueParts, kFeatureParts = Sizes::kFeatureParts;
  static constexpr int kSumParts = Sizes::kSumParts, kGradientParts = Sizes::kGradientParts;

  using Logs = typename Queries::Logs;  // Of 16 rows, [1, tiles of features, ...].
  using Matrix = F[kTiles][4];          // The same.
  using Values = U[Sizes::kValues / 16][kValueParts][4];
  using Features = U[kTiles / 2][kFeatureParts][4];

  MNEMOSYNE_DEVICE FltQuickReader(const FltSideSpace& space, uint32_t warp)
      : space_(space),
        warp_(warp),
        queries_(space, warp, space.at.queries),
        raw_values_(space.at.reader_values + warp * kWarpRows * kRawStride) {}

  MNEMOSYNE_DEVICE uint32_t warp() const { return warp_; }
  MNEMOSYNE_DEVICE const Queries& queries() const { return queries_; }

  // Begins to copy the rows from `first` on, `rows` of them, and their values.
  MNEMOSYNE_DEVICE void Fetch(uint32_t first, uint32_t rows) const {
    queries_.Fetch(first, rows);
    const Rows values(space_.side.values, space_.part, space_.call.shape.values);
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < kWarpRows * Rows::kChunks / 32; ++k) {
        const uint32_t i = 32 * k + static_cast<uint32_t>(here.lane);
        const uint32_t row = i / Rows::kChunks, chunk = i % Rows::kChunks;
        const bool valid = row < rows && space_.Valid(first + row);
        values.Fetch(first + row, chunk, valid,
                     space_.Words(raw_values_) + row * kRawStride + chunk * 4);
      }
    });
  }

  // Gradients of the rows that are fetched, from the sums alone; begins to fetch the next ones.
  MNEMOSYNE_DEVICE void Differentiate(uint32_t first, uint32_t rows, uint32_t next,
                                      uint32_t next_rows) const {
    Logs phi;
    Values values;
    T::WaitForCopies();
    W::Sync();
    queries_.MeasureNumbers(phi);
    LoadValues(values);
    W::Sync();
    if (next_rows > 0) Fetch(next, next_rows);
    if (space_.call.shape.waves > 0) queries_.MeasureWaves(first, rows, phi);
    F weights[2];
    Activate(first, rows, phi, weights);
    Matrix gradient;
    Read(values, weights, gradient);
    if (space_.side.value_gradient.data != nullptr) {
      WriteValues(first, rows, phi, [](int, F(&)[4]) {});
    }
    Finish(first, rows, phi, gradient);
  }

  // The values that are fetched, as left sides.
  MNEMOSYNE_DEVICE void LoadValues(Values& values) const {
    const uint32_t* const raw = space_.Words(raw_values_);
    MNEMOSYNE_UNROLL_ALL
    for (int s = 0; s < Sizes::kValues / 16; ++s) {
      if constexpr (kValueParts == 1) {
        Fragments::LoadLeft(values[s][0], raw, kRawStride, 0, static_cast<uint32_t>(8 * s));
      } else {
        W::Each([&](auto here) {
          MNEMOSYNE_UNROLL_ALL
          for (int i = 0; i < 4; ++i) {
            const auto row = static_cast<uint32_t>(here.lane / 4 + i % 2 * 8);
            const auto pair = static_cast<uint32_t>(8 * s + here.lane % 4 + i / 2 * 4);
            float low, high;
            if constexpr (Sizes::kFull) {
              low = FloatOf(raw[row * kRawStride + 2 * pair]);
              high = FloatOf(raw[row * kRawStride + 2 * pair + 1]);
            } else {
              UnpackFloat16(raw[row * kRawStride + pair], &low, &high);
            }
            const FltPair<kValueParts> split(low, high);
            MNEMOSYNE_UNROLL_ALL
            for (int part = 0; part < kValueParts; ++part) {
              here(values[s][part][i]) = split.part[part];
            }
          }
        });
      }
    }
  }

  // Logarithms become features, relative to what the sums are relative to; `weights` are the rows'.
  MNEMOSYNE_DEVICE void Activate(uint32_t first, uint32_t rows, Logs& phi, F (&weights)[2]) const {
    const float* const lifts = space_.Floats(space_.at.lifts);
    W::Each([&](auto here) {
      float bases[2];
      MNEMOSYNE_UNROLL_ALL
      for (int h = 0; h < 2; ++h) {
        const auto row = static_cast<uint32_t>(here.lane / 4 + 8 * h);
        const FltRowNumber number =
            row < rows ? space_.NumberOf(space_.call.query_rows, first + row) : kFltNoRowNumber;
        bases[h] = number.base;
        here(weights[h]) = number.weight;
      }
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < kTiles; ++m) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          float& own = here(phi[0][m][k]);
          own =
              Exp2(((own + lifts[8 * m + 2 * (here.lane % 4) + k % 2]) - bases[k / 2]) * kLog2OfE);
        }
      }
    });
  }

  // Gradients of features from the sums.
  MNEMOSYNE_DEVICE void Read(const Values& values, const F (&weights)[2], Matrix& gradient) const {
    const float* const psi = space_.Floats(space_.at.psi);
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < kTiles; ++m) {
      F sum[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
      MNEMOSYNE_UNROLL_ALL
      for (int s = 0; s < Sizes::kValues / 16; s += 2) {
        U first[kSumParts][2], second[kSumParts][2];
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t part = 0; part < kSumParts; ++part) {
          Pair pair;
          pair.Load(space_.Words(space_.at.means) + part * Sizes::kFeatures * kStride, kStride,
                    static_cast<uint32_t>(8 * m), static_cast<uint32_t>(8 * s));
          Take(pair, first[part], second[part]);
        }
        Fragments::template MultiplyParts<kValueParts, kSumParts>(sum, values[s], first);
        Fragments::template MultiplyParts<kValueParts, kSumParts>(sum, values[s + 1], second);
      }
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
          here(gradient[m][k]) =
              fmaf(here(weights[k / 2]), psi[8 * m + 2 * (here.lane % 4) + k % 2], here(sum[k]));
        }
      });
    }
  }

  MNEMOSYNE_DEVICE static void Split(const Logs& phi, Features& features) {
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < kTiles; ++m) {
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const FltPair<kFeatureParts> pair(here(phi[0][m][2 * h]), here(phi[0][m][2 * h + 1]));
          MNEMOSYNE_UNROLL_ALL
          for (int part = 0; part < kFeatureParts; ++part) {
            here(features[m / 2][part][m % 2 * 2 + h]) = pair.part[part];
          }
        }
      }
    });
  }

  // Writes gradients of the rows' values: what features read from the sums, and what more(tile,
  // sums) adds to a tile of columns.
  template <typename More>
  MNEMOSYNE_DEVICE void WriteValues(uint32_t first, uint32_t rows, const Logs& phi,
                                    const More& more) const {
    Features features;
    Split(phi, features);
    const Rows to(space_.side.value_gradient, space_.part, space_.call.shape.values);
    MNEMOSYNE_UNROLL_ALL
    for (int tile = 0; tile < Sizes::kValues / 8; ++tile) {
      F sums[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < kTiles / 2; m += 2) {
        U above[kSumParts][2], below[kSumParts][2];
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t part = 0; part < kSumParts; ++part) {
          Pair pair;
          pair.LoadDown(space_.Words(space_.at.means) + part * Sizes::kFeatures * kStride, kStride,
                        static_cast<uint32_t>(16 * m), static_cast<uint32_t>(4 * tile));
          Take(pair, above[part], below[part]);
        }
        Fragments::template MultiplyParts<kFeatureParts, kSumParts>(sums, features[m], above);
        Fragments::template MultiplyParts<kFeatureParts, kSumParts>(sums, features[m + 1], below);
      }
      more(tile, sums);
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const auto row = static_cast<uint32_t>(here.lane / 4 + 8 * h);
          if (row >= rows) continue;
          const float x = here(sums[2 * h]), y = here(sums[2 * h + 1]);
          if (!IsFinite(x) || !IsFinite(y)) T::Raise(space_.call.flag);
          to.WriteTwo(first + row, static_cast<uint32_t>(8 * tile + here.lane % 4 * 2), x, y);
        }
      });
    }
  }

  // From gradients of features to those of the rows and of their waves.
  MNEMOSYNE_DEVICE void Finish(uint32_t first, uint32_t rows, const Logs& phi,
                               const Matrix& gradient) const {
    U parts[kTiles / 2][kGradientParts][4];
    F totals[2] = {F(0.0F), F(0.0F)};
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < kTiles; ++m) {
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const float x = here(gradient[m][2 * h]) * here(phi[0][m][2 * h]);
          const float y = here(gradient[m][2 * h + 1]) * here(phi[0][m][2 * h + 1]);
          here(totals[h]) += x + y;
          const FltPair<kGradientParts> pair(x, y);
          MNEMOSYNE_UNROLL_ALL
          for (int part = 0; part < kGradientParts; ++part) {
            here(parts[m / 2][part][m % 2 * 2 + h]) = pair.part[part];
          }
        }
      }
    });
    // Those of queries are 0: outputs do not depend on the scale of a query's features.
    MNEMOSYNE_UNROLL_ALL
    for (int h = 0; h < 2; ++h) {
      totals[h] = totals[h] + W::Exchange(totals[h], 1);
      totals[h] = totals[h] + W::Exchange(totals[h], 2);
    }
    W::Each([&](auto here) {
      if (!IsFinite(here(totals[0]) + here(totals[1]))) T::Raise(space_.call.flag);
    });
    if (space_.side.x_gradient.data != nullptr) WriteRows(first, rows, parts, totals);
    if (space_.side.of_waves) AddWaves(first, rows, parts, totals);
  }

  // Sets the sums of the warp's gradients of waves to 0.
  MNEMOSYNE_DEVICE void ClearWaves() const {
    W::Each([&](auto here) {
      for (uint32_t i = 0; i < FltQuickLayout::kWaveSums; ++i) {
        WaveSums()[i * Sizes::kWaves + static_cast<uint32_t>(here.lane)] = 0;
      }
    });
  }

 private:
  static constexpr uint32_t kRawStride = Sizes::kRawStride, kStride = Sizes::kStride;
  using Parts = U[kTiles / 2][kGradientParts][4];
  static_assert(Sizes::kWaves == 32);

  MNEMOSYNE_DEVICE float* WaveSums() const {
    return space_.Floats(space_.at.wave_sums) + warp_ * FltQuickLayout::kWaveSums * Sizes::kWaves;
  }

  static MNEMOSYNE_DEVICE void Take(const Pair& pair, U (&first)[2], U (&second)[2]) {
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 2; ++i) {
      first[i] = pair.first[i];
      second[i] = pair.second[i];
    }
  }

  // Tile `tile` of the columns of the product with the projection.
  MNEMOSYNE_DEVICE void MultiplyBack(const Parts& parts, int tile, F (&sum)[4]) const {
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < 4; ++k) sum[k] = F(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < kTiles / 2; m += 2) {
      U above[kGradientParts][2], below[kGradientParts][2];
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t part = 0; part < kGradientParts; ++part) {
        Pair pair;
        pair.LoadDown(space_.Words(space_.at.back) + part * Sizes::kFeatures * Sizes::kWeightStride,
                      Sizes::kWeightStride, static_cast<uint32_t>(16 * m),
                      static_cast<uint32_t>(4 * tile));
        Take(pair, above[part], below[part]);
      }
      Fragments::template MultiplyParts<kGradientParts, kGradientParts>(sum, parts[m], above);
      Fragments::template MultiplyParts<kGradientParts, kGradientParts>(sum, parts[m + 1], below);
    }
  }

  MNEMOSYNE_DEVICE void WriteRows(uint32_t first, uint32_t rows, const Parts& parts,
                                  const F (&totals)[2]) const {
    const FltCall& call = space_.call;
    const Rows to(space_.side.x_gradient, space_.part, call.shape.dim);
    const Rows from(call.arrays.q, space_.part, call.shape.dim);
    const float square = call.weights.root_scale * call.weights.root_scale;
    MNEMOSYNE_UNROLL_ALL
    for (int half = 0; half < 2; ++half) {
      F sums[4][4];
      MNEMOSYNE_UNROLL_ALL
      for (int v = 0; v < 4; ++v) MultiplyBack(parts, 4 * half + v, sums[v]);
      W::Each([&](auto here) {
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const auto row = static_cast<uint32_t>(here.lane / 4 + 8 * h);
          const auto column = static_cast<uint32_t>(32 * half + here.lane % 4 * 8);
          if (row >= rows) continue;
          float x[8];
          if (call.mirrored && space_.Valid(first + row)) {
            from.ReadEight(first + row, column, x);
          } else {
            MNEMOSYNE_UNROLL_ALL
            for (int i = 0; i < 8; ++i) x[i] = 0;
          }
          float check = 0;
          MNEMOSYNE_UNROLL_ALL
          for (int i = 0; i < 8; ++i) {
            x[i] = fmaf(-square * here(totals[h]), x[i], here(sums[i / 2][2 * h + i % 2]));
            check = fmaf(x[i], 0.0F, check);
          }
          if (!(check >= 0)) T::Raise(space_.call.flag);
          to.WriteEight(first + row, column, x);
        }
      });
    }
  }

  // Adds gradients of the numbers a and b of the readers' waves, which are (a c + b s, a s - b c),
  // and of frequencies.
  MNEMOSYNE_DEVICE void AddWaves(uint32_t first, uint32_t rows, const Parts& parts,
                                 const F (&totals)[2]) const {
    const FltShape& shape = space_.call.shape;
    const float* const amplitudes = space_.Floats(space_.at.amplitudes);
    const float* const origin = space_.PositionOf(space_.part.start);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < Sizes::kWaves / 8; ++j) {
      F one[4], two[4], sums[FltQuickLayout::kWaveSums][2];
      MultiplyBack(parts, Sizes::kDim / 8 + j, one);
      MultiplyBack(parts, (Sizes::kDim + Sizes::kWaves) / 8 + j, two);
      W::Each([&](auto here) {
        const auto wave = static_cast<uint32_t>(8 * j + 2 * (here.lane % 4));
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t i = 0; i < FltQuickLayout::kWaveSums; ++i) {
          here(sums[i][0]) = here(sums[i][1]) = 0;
        }
        MNEMOSYNE_UNROLL_ALL
        for (int h = 0; h < 2; ++h) {
          const auto row = static_cast<uint32_t>(here.lane / 4 + 8 * h);
          const float* const at = space_.PositionOf(first + (row < rows ? row : 0));
          const FltWaveNumbers waves =
              FltWaveNumbers::At<Sizes>(shape, space_.Floats(space_.at.frequencies),
                                        space_.Floats(space_.at.origin), at, wave);
          MNEMOSYNE_UNROLL_ALL
          for (uint32_t k = 0; k < 2; ++k) {
            const float x = here(one[2 * h + static_cast<int>(k)]);
            const float y = here(two[2 * h + static_cast<int>(k)]);
            const float along = fmaf(x, waves.cosine[k], y * waves.sine[k]);
            const float across = fmaf(x, waves.sine[k], -(y * waves.cosine[k]));
            const float a = amplitudes[wave + k], b = amplitudes[Sizes::kWaves + wave + k];
            const float turn = fmaf(b, along, -(a * across));
            here(sums[0][k]) += along;
            here(sums[1][k]) += across;
            if (space_.call.mirrored) {  // Halves of squares.
              here(sums[0][k]) = fmaf(-a, here(totals[h]), here(sums[0][k]));
              here(sums[1][k]) = fmaf(-b, here(totals[h]), here(sums[1][k]));
            }
            MNEMOSYNE_UNROLL_ALL
            for (uint32_t axis = 0; axis < 3; ++axis) {
              if (axis >= shape.positions) break;
              here(sums[2 + axis][k]) =
                  fmaf(at[axis] - origin[axis], turn, here(sums[2 + axis][k]));
            }
          }
        }
      });
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t i = 0; i < FltQuickLayout::kWaveSums; ++i) {
        if (i >= 2 + shape.positions) break;
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t k = 0; k < 2; ++k) {
          F sum = sums[i][k];
          MNEMOSYNE_UNROLL_ALL
          for (int mask = 4; mask < 32; mask *= 2) sum = sum + W::Exchange(sum, mask);
          W::Each([&](auto here) {
            if (here.lane >= 4) return;
            const auto wave = static_cast<uint32_t>(8 * j + 2 * here.lane) + k;
            WaveSums()[i * Sizes::kWaves + wave] += here(sum);
          });
        }
      }
    }
  }

  const FltSideSpace& space_;
  const uint32_t warp_;
  const Queries queries_;
  const uint32_t raw_values_;
};

// Begins to copy the projection that gradients are multiplied with, and stages what the readers'
// waves need; by all threads.
template <class T, class Sizes>
MNEMOSYNE_DEVICE void StageFltReading(const FltSideSpace& space) {
  const uint32_t* const back = FltPrepared<Sizes>::OfBack(space.call, space.part.head);
  constexpr uint32_t kWords = Sizes::kInputs / 2, kChunks = kWords / 4;
  T::Spread(Sizes::kGradientParts * Sizes::kFeatures * kChunks, [&](uint32_t i) {
    const uint32_t row = i / kChunks, chunk = i % kChunks;
    T::Copy16(space.Words(space.at.back) + row * Sizes::kWeightStride + 4 * chunk,
              back + row * kWords + 4 * chunk, 16);
  });
  StageFltQuickWaves<T, Sizes>(space);
  const FltShape& shape = space.call.shape;
  const FltWeights& given = space.call.weights;
  const size_t head = static_cast<size_t>(space.part.head) * shape.wave_stride;
  const float* const a = (space.call.mirrored ? given.key_a : given.query_a) + head;
  const float* const b = (space.call.mirrored ? given.key_b : given.query_b) + head;
  T::Spread(Sizes::kWaves, [&](uint32_t wave) {
    const bool there = wave < shape.waves;
    space.Floats(space.at.amplitudes)[wave] = there ? a[wave] : 0.0F;
    space.Floats(space.at.amplitudes)[Sizes::kWaves + wave] = there ? b[wave] : 0.0F;
  });
}

// Sums as they are, by all threads.
template <class T, class Sizes>
MNEMOSYNE_DEVICE void StageFltSums(const FltQuickSpace& space, const float* sums,
                                   const uint32_t* biases) {
  const FltShape& shape = space.call.shape;
  T::Spread(Sizes::kFeatures, [&](uint32_t m) {
    const bool there = m < shape.features;
    space.Floats(space.at.lifts)[m] = FloatOf(biases[m]) + (there ? sums[m] : 0.0F);
    space.Floats(space.at.psi)[m] = there ? sums[shape.features + m] : 0.0F;
  });
  const float* const n = sums + 2 * shape.features;
  T::Spread(Sizes::kFeatures * Sizes::kValues / 2, [&](uint32_t i) {
    const uint32_t m = i / (Sizes::kValues / 2), pair = i % (Sizes::kValues / 2), d = 2 * pair;
    const bool there = m < shape.features;
    const FltPair<Sizes::kSumParts> split(
        there && d < shape.values ? n[m * shape.values + d] : 0.0F,
        there && d + 1 < shape.values ? n[m * shape.values + d + 1] : 0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t part = 0; part < Sizes::kSumParts; ++part) {
      space.Words(space.at.means)[(part * Sizes::kFeatures + m) * Sizes::kStride + pair] =
          split.part[part];
    }
  });
}

// Adds the warps' sums of gradients of waves to the part's, by all threads; `gradients` are those
// of the part.
template <class T, class Sizes>
MNEMOSYNE_DEVICE void AddFltWaves(const FltSideSpace& space, uint32_t warps, float* gradients) {
  if (!space.side.of_waves) return;
  const FltShape& shape = space.call.shape;
  T::Spread(shape.waves * (2 + shape.positions), [&](uint32_t i) {
    const uint32_t which = i / shape.waves, wave = i % shape.waves;
    float sum = 0;
    for (uint32_t warp = 0; warp < warps; ++warp) {
      sum += space.Floats(
          space.at.wave_sums)[(warp * FltQuickLayout::kWaveSums + which) * Sizes::kWaves + wave];
    }
    const uint32_t place = which == 0   ? space.side.of_a
                           : which == 1 ? space.side.of_b
                                        : space.side.of_frequencies + (which - 2) * shape.waves;
    gradients[place + wave] += sum;
  });
}

// Gradients of the part's readers from `starts`; a team of Sizes::kReaderWarps warps.
template <class T, class Sizes, class Team>
MNEMOSYNE_DEVICE void DifferentiateAllQuickly(const FltSideSpace& space, Team& team,
                                              const float* starts, float* gradients) {
  const FltPart& part = space.part;
  const uint32_t* const biases = FetchFltWeights<T, Sizes>(space);
  StageFltReading<T, Sizes>(space);
  StageFltSums<T, Sizes>(space, starts, biases);
  team.Run([&](auto& warp) { warp.ClearWaves(); });
  T::WaitForCopies();
  team.Each([&](auto&) {});
  team.Each([&](auto& warp) {
    constexpr uint32_t kWarp = std::remove_reference_t<decltype(warp)>::kWarpRows;
    constexpr uint32_t kAll = kWarp * Sizes::kReaderWarps;
    const auto rows_at = [&](uint32_t at) {
      return at >= part.count ? 0 : part.count - at < kWarp ? part.count - at : kWarp;
    };
    const uint32_t begin = kWarp * warp.warp();
    if (begin < part.count) warp.Fetch(part.first + begin, rows_at(begin));
    for (uint32_t at = begin; at < part.count; at += kAll) {
      warp.Differentiate(part.first + at, rows_at(at), part.first + at + kAll, rows_at(at + kAll));
    }
  });
  AddFltWaves<T, Sizes>(space, Sizes::kReaderWarps, gradients);
}

}  // namespace mnemosyne::kernels::cuda
