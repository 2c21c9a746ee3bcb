// One chunk's step of the flagship as the program of a warp, for models of the shipped sizes: 32
// cells of 32 coordinates, a cell to each lane. A chunk is read once and written once; between, its
// directions stay in registers.
//
// Written in the lanes of `W`: lanes.cuh on a GPU, host_lanes.h in tests. Lanes add in a fixed
// order, so that a chunk has the same bits wherever it runs.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/device_functions.h"
#include "kernels/mnemosyne_sizes.h"

namespace mnemosyne::kernels::cuda {

// The sizes that the program is written for.
struct WarpSizes {
  static constexpr int kCell = 32, kCells = 32;
  static constexpr int kWidth = 16, kKey = 8, kPositional = 4, kFeatures = 16, kHidden = 16;
  static constexpr int kToken = 32, kHeads = 2, kMemoryFeatures = 8, kMemoryWidth = 16;
  static constexpr int kContextFeatures = 16, kDecoderHidden = 32;
  static constexpr int kPoolInputs = kWidth + kHidden + static_cast<int>(kChunkFeatureCount);
  static constexpr int kDecoderInputs = kToken + (kHeads + 2) * kMemoryWidth;

  // Whether a model has them.
  static inline bool Fit(const MnemosyneSizes& s) {
    const auto is = [](size_t size, int expected) { return size == static_cast<size_t>(expected); };
    const auto plain = [](const FeatureMapSizes& map) {
      return map.shape == FeatureMapShape::kExponential;
    };
    return s.write_rule == MnemosyneWriteRule::kAdditive && is(s.cell_size, kCell) &&
           is(s.chunk_cells, kCells) && is(s.cell_width, kWidth) && is(s.key_width, kKey) &&
           is(s.positional, kPositional) && is(s.cell_hidden, kHidden) &&
           is(s.cell_map.features, kFeatures) && is(s.token_width, kToken) &&
           is(s.memory_heads, kHeads) && is(s.memory_map.features, kMemoryFeatures) &&
           is(s.memory_width, kMemoryWidth) && is(s.context_map.features, kContextFeatures) &&
           is(s.hidden, kDecoderHidden) && plain(s.cell_map) && plain(s.memory_map) &&
           plain(s.context_map);
  }
};

// Where the weights lie that the warps of a block share, in floats; a map's bias is its last row.
struct WarpWeights {
  using S = WarpSizes;
  static constexpr int kEmbed = 0;                                           // [12, 16]
  static constexpr int kHeads = kEmbed + 12 * S::kWidth;                     // [17, 16]
  static constexpr int kMap = kHeads + 17 * 16;                              // [13, 16]
  static constexpr int kValues = kMap + 13 * 16;                             // [17, 16]
  static constexpr int kMerge = kValues + 17 * 16;                           // [16]: the bias.
  static constexpr int kExpand = kMerge + 16;                                // [17, 16]
  static constexpr int kGain = kExpand + 17 * 16;                            // [33], padded.
  static constexpr int kPool = kGain + 36;                                   // [58, 32]
  static constexpr int kMemoryHeads = kPool + (S::kPoolInputs + 1) * 32;     // [33, 32]
  static constexpr int kMemoryMaps = kMemoryHeads + 33 * 32;                 // [9, 2, 8]
  static constexpr int kDecoder = kMemoryMaps + 9 * 16;                      // [97, 32]
  static constexpr int kDecision = kDecoder + (S::kDecoderInputs + 1) * 32;  // [33, 8]
  static constexpr int kCount = kDecision + 33 * 8;

  // Copies the weights to `to` [kCount]; the caller is thread `thread` of `threads`, and the copy
  // is complete when all have returned.
  static MNEMOSYNE_DEVICE void Stage(const MnemosyneWeights& w, float* to, int thread,
                                     int threads) {
    const auto rows = [&](int place, const float* from, int count, int columns, int stride) {
      for (int i = thread; i < count * columns; i += threads) {
        to[place + i] = from == nullptr ? 0.0F : from[i / columns * stride + i % columns];
      }
    };
    const auto map = [&](int place, const DenseWeights& from, int inputs, int columns, int stride) {
      rows(place, from.w, inputs, columns, stride);
      rows(place + inputs * columns, from.b, 1, columns, stride);
    };
    map(kEmbed, w.embed, 11, 16, 16);
    map(kHeads, w.cell_heads, 16, 16, 32);
    map(kMap, {w.cell_map.w, w.cell_map.b}, 12, 16, 16);
    map(kValues, w.folds.cell_values, 16, 16, 16);
    rows(kMerge, w.merge.b, 1, 16, 16);
    map(kExpand, w.expand, 16, 16, 16);
    map(kGain, w.folds.cell_gain, 32, 1, 16);
    map(kPool, w.folds.pool, S::kPoolInputs, 32, 32);
    map(kMemoryHeads, w.memory_heads, 32, 32, 32);
    for (int head = 0; head < S::kHeads; ++head) {
      for (int i = 0; i < 9; ++i) {
        const float* const from = i < 8 ? w.memory_maps[head].w + i * 16 : w.memory_maps[head].b;
        rows(kMemoryMaps + i * 16 + head * 8, from, 1, 8, 8);
      }
    }
    map(kDecoder, w.decoder_hidden, S::kDecoderInputs, 32, 32);
    for (int i = 0; i < 33; ++i) {
      rows(kDecision + i * 8, i < 32 ? w.decision.w + i * 16 : w.decision.b, 1, 8, 8);
    }
  }
};

// What a warp has to itself, in floats; its start is aligned to 16 bytes.
struct WarpScratch {
  static constexpr int kStride = 20;  // Of a lane's row of 16: no two of 8 lanes share a bank.
  static constexpr int kKeys = 0;     // [32, kStride]
  static constexpr int kRows = kKeys + 32 * kStride;
  static constexpr int kContent = kRows + 32 * kStride;    // [16, 16]
  static constexpr int kMass = kContent + 256;             // [16]
  static constexpr int kPoolInputs = kMass + 16;           // [57], padded.
  static constexpr int kDecoderInputs = kPoolInputs + 60;  // [96]
  static constexpr int kSlow = kDecoderInputs + 96;        // [1024]: r2 before the step.
  static constexpr int kCount = kSlow + 1024;
};

// What a warp is told of a model besides its weights.
struct WarpModel {
  MnemosyneKnobs knobs;
  float cell_scale, memory_scale;  // Of the feature maps.
  float discounts[WarpSizes::kHeads];

  static inline WarpModel Of(const MnemosyneModel& model) {
    return {model.knobs,
            model.sizes.cell_map.scale,
            model.sizes.memory_map.scale,
            {model.weights.discounts[0], model.weights.discounts[1]}};
  }
};

template <class W>
class WarpChunk {
  using F = typename W::Floats;
  using D = typename W::Doubles;
  using I = typename W::Ints;
  using B = typename W::Bools;

 public:
  // `weights` are as WarpWeights has them, `scratch` as WarpScratch; `before` is a copy of what the
  // chunk has chosen so far.
  MNEMOSYNE_DEVICE WarpChunk(const WarpModel& model, const float* weights, float* scratch,
                             const MnemosyneChunkStep& at, const MnemosyneChoice& before)
      : model_(model),
        knobs_(model.knobs),
        weights_(weights),
        scratch_(scratch),
        at_(at),
        lane_(W::Lane()),
        count_(static_cast<int>(at.chunk->count)),
        cells_(static_cast<int>(at.chunk->cells)),
        full_(count_ == kLoads * 128),
        share_(1.0F / static_cast<float>(count_)),
        // After the sums are folded, a lane has this cell's.
        cell_((lane_ & 7) * 4 + (lane_ >> 3)),
        choice_(before) {}

  // The step; the sum of the update's squares to `square_sum`, whether it was capped to `capped`.
  MNEMOSYNE_DEVICE void Step(double* square_sum, uint32_t* capped) {
    const float old_mean_square = choice_.mean_square;
    F means[kSums], sums[kSums];
    Measure(sums, means);
    EncodeCells(sums, means);
    Describe(means, old_mean_square);
    MakeToken();
    Remember();
    AttendToOthers();
    Decide();
    WriteUpdates(square_sum, capped);
  }

  // The last update once more.
  MNEMOSYNE_DEVICE void Replay(double* square_sum, uint32_t* capped) {
    const Reading reading(choice_, knobs_);
    const F floor(choice_.floor), scale(at_.step->gradient_scale);
    D sum(0.0);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kLoads; ++j) {
      F values[4], fasts[4], squares[4], slows[4];
      LoadFour(at_.values, j, values);
      LoadFour(at_.fast, j, fasts);
      LoadFour(at_.square, j, squares);
      LoadFour(at_.slow, j, slows);
      const I cell = (lane_ >> 3) + 4 * j;
      const F gain = W::LoadIf(cell < I(cells_), at_.gains, cell);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        const F inverse = InverseRoot(squares[i], floor);
        const F sharp = reading.sharp_scale * (Clamped(values[i], scale) * inverse);
        const F update = reading.Update(sharp, fasts[i] * inverse, slows[i], gain);
        values[i] = F(choice_.cap) * update;
        AddSquare(values[i], sum);
      }
      StoreFour(at_.values, j, values);
    }
    Answer(Total(sum), B(choice_.cap < 1), square_sum, capped);
  }

 private:
  static constexpr int kLoads = 8;  // Of four coordinates by each lane.

  struct alignas(16) Four {
    float x[4];
  };

  // Four weights, the same for all lanes.
  static MNEMOSYNE_DEVICE Four Uniform(const float* p) { return *reinterpret_cast<const Four*>(p); }

  // What an update is made with.
  struct Reading {
    F sharp_scale, weight_sharp, weight_fast, weight_slow, level, share, negative_step;

    MNEMOSYNE_DEVICE Reading(const MnemosyneChoice& c, const MnemosyneKnobs& knobs)
        : sharp_scale(c.sharp_scale),
          weight_sharp(c.weight_sharp),
          weight_fast(c.weight_fast),
          weight_slow(c.weight_slow),
          level(c.level),
          share(knobs.guard_share),
          negative_step(-c.step) {}

    MNEMOSYNE_DEVICE F Update(F sharp, F smooth, F slow, F gain) const {
      const F read =
          W::Fma(weight_sharp, sharp, W::Fma(weight_slow, slow, weight_fast * smooth)) * gain;
      return negative_step * W::Fma(level, W::Fma(share, smooth, F(0.0F) - read), read);
    }
  };

  // Coordinates of the lane in load j; those behind the chunk's end are zeros.
  MNEMOSYNE_DEVICE void LoadFour(const float* p, int j, F (&x)[4]) const {
    const I first = lane_ * 4 + 128 * j;
    if (full_) {
      W::LoadStream(p, first, x);
      return;
    }
    for (int i = 0; i < 4; ++i) x[i] = W::LoadIf(first + i < I(count_), p, first + i);
  }
  MNEMOSYNE_DEVICE void StoreFour(float* p, int j, const F (&x)[4]) const {
    const I first = lane_ * 4 + 128 * j;
    if (full_) {
      W::StoreStream(p, first, x);
      return;
    }
    for (int i = 0; i < 4; ++i) W::StoreIf(first + i < I(count_), p, first + i, x[i]);
  }

  static MNEMOSYNE_DEVICE F Clamped(F gradient, F scale) {
    return W::Max(W::Min(scale * gradient, F(kGradientMax)), F(-kGradientMax));
  }

  static MNEMOSYNE_DEVICE F InverseRoot(F square, F floor) {
    const F zero(0.0F);
    return W::Select(zero < square, W::Divide(F(1.0F), W::Sqrt(square) + floor), zero);
  }

  static MNEMOSYNE_DEVICE F Tanh(F x) {
    const F limit(7.90531110763549805F);
    x = W::Max(W::Min(x, limit), F(0.0F) - limit);
    const F s = x * x;
    F above(-2.76076847742355e-16F);
    above = W::Fma(above, s, F(2.00018790482477e-13F));
    above = W::Fma(above, s, F(-8.60467152213735e-11F));
    above = W::Fma(above, s, F(5.12229709037114e-08F));
    above = W::Fma(above, s, F(1.48572235717979e-05F));
    above = W::Fma(above, s, F(6.37261928875436e-04F));
    above = W::Fma(above, s, F(4.89352455891786e-03F));
    F below(1.19825839466702e-06F);
    below = W::Fma(below, s, F(1.18534705686654e-04F));
    below = W::Fma(below, s, F(2.26843463243900e-03F));
    below = W::Fma(below, s, F(4.89352518554385e-03F));
    return W::Divide(above * x, below);
  }

  static MNEMOSYNE_DEVICE F DivideOrZero(F above, F below) {
    const F size = W::Max(below, F(0.0F) - below), zero(0.0F);
    return W::Select(F(kDenominatorMin) < size, W::Divide(above, below), zero);
  }

  // The sum over all lanes, in each of them.
  static MNEMOSYNE_DEVICE F SumAll(F x) {
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 16; mask > 0; mask /= 2) x = x + W::Exchange(x, mask);
    return x;
  }
  static MNEMOSYNE_DEVICE D Total(D x) {
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 16; mask > 0; mask /= 2) x = x + W::Exchange(x, mask);
    return x;
  }
  // The sum over 8 lanes in a row, in each of them.
  static MNEMOSYNE_DEVICE F SumEight(F x) {
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 4; mask > 0; mask /= 2) x = x + W::Exchange(x, mask);
    return x;
  }

  // Lanes whose bit is set get the sum of `b` over both, the others that of `a`.
  MNEMOSYNE_DEVICE F Fold(F a, F b, int mask) const {
    const B upper = (lane_ & mask) == I(mask);
    return W::Select(upper, b, a) + W::Exchange(W::Select(upper, a, b), mask);
  }

  // Lane l gets the sum over lanes of x[l]; `x` is lost.
  MNEMOSYNE_DEVICE F FoldAll(F (&x)[32]) const {
    MNEMOSYNE_UNROLL_ALL
    for (int half = 16; half > 0; half /= 2) {
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 16; ++i) {
        if (i < half) x[i] = Fold(x[i], x[i + half], half);
      }
    }
    return x[0];
  }

  static MNEMOSYNE_DEVICE void AddSquare(F update, D& sum) {
    const D value = W::ToDouble(update);
    sum = W::FmaDouble(value, value, sum);
  }

  MNEMOSYNE_DEVICE void Answer(D sum, B was_capped, double* square_sum, uint32_t* capped) const {
    const B first = lane_ == I(0);
    W::StoreIf(first, square_sum, sum);
    W::StoreIf(first, capped, was_capped);
  }

  // r1 and s take in the gradient. The cell's sums to `sums`, means over the chunk to `means`;
  // directions to sharp_ and smooth_, the old r2 to the scratch.
  MNEMOSYNE_DEVICE void Measure(F (&sums)[kSums], F (&means)[kSums]) {
    const F scale(at_.step->gradient_scale), rate(at_.step->rate_fast);
    const F square_rate(at_.step->rate_square), share(share_);
    F squares[kLoads][4];
    floor_ = F(knobs_.epsilon) * W::Sqrt(F(choice_.mean_square));
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kLoads; ++j) {
      LoadFour(at_.values, j, sharp_[j]);
      LoadFour(at_.square, j, squares[j]);
      LoadFour(at_.fast, j, smooth_[j]);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kLoads; ++j) {
      F slows[4];
      LoadFour(at_.slow, j, slows);
      W::StoreFour(scratch_ + WarpScratch::kSlow + 128 * j, lane_ * 4, slows);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kLoads; ++j) {
      F fasts[4];
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        const F g = Clamped(sharp_[j][i], scale), s = squares[j][i], old = smooth_[j][i];
        sharp_[j][i] = g;
        squares[j][i] = W::Fma(g * g - s, square_rate, s);
        fasts[i] = W::Fma(g - old, rate, old);
      }
      StoreFour(at_.square, j, squares[j]);
      StoreFour(at_.fast, j, fasts);
    }

    const F before_fast = F(knobs_.fast_weight * at_.step->fall) * W::Exp(F(choice_.log_fast));
    const F before_slow = F(knobs_.slow_weight) * W::Exp(F(choice_.log_slow));
    // Loads j and j + 4, then of those j and j + 2, then j and j + 1: a lane keeps one of each.
    F quarters[2][kSums];
    MNEMOSYNE_UNROLL_ALL
    for (int odd = 0; odd < 2; ++odd) {
      F halves[2][kSums];
      MNEMOSYNE_UNROLL_ALL
      for (int second = 0; second < 2; ++second) {
        const int j = odd + 2 * second;
        F low[kSums], high[kSums];
        AddTerms(j, squares[j], rate, before_fast, before_slow, low);
        AddTerms(j + 4, squares[j + 4], rate, before_fast, before_slow, high);
        MNEMOSYNE_UNROLL_ALL
        for (int k = 0; k < kSums; ++k) halves[second][k] = Fold(low[k], high[k], 4);
      }
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < kSums; ++k) quarters[odd][k] = Fold(halves[0][k], halves[1][k], 2);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < kSums; ++k) {
      sums[k] = Fold(quarters[0][k], quarters[1][k], 1);
      means[k] = SumAll(share * sums[k]);
    }
    mean_square_ = means[kSquare];
    const F limit(knobs_.write_limit);
    sharp_scale_ = W::Divide(limit, W::Max(W::Sqrt(means[kSharp2]), limit));
  }

  // The sums over the lane's coordinates of load j; the gradient and the old r1 in sharp_ and
  // smooth_ become directions.
  MNEMOSYNE_DEVICE void AddTerms(int j, const F (&squares)[4], F rate, F before_fast, F before_slow,
                                 F (&sums)[kSums]) {
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < kSums; ++k) sums[k] = F(0.0F);
    F slows[4];
    W::LoadFour(scratch_ + WarpScratch::kSlow + 128 * j, lane_ * 4, slows);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      const F g = sharp_[j][i], old = smooth_[j][i], slow = slows[i];
      const F inverse = InverseRoot(squares[i], floor_);
      const F sharp = g * inverse, smooth = W::Fma(g - old, rate, old) * inverse;
      const F previous = W::Fma(before_fast * inverse, old, before_slow * slow);
      sums[kGrad2] = W::Fma(g, g, sums[kGrad2]);
      sums[kOld2] = W::Fma(old, old, sums[kOld2]);
      sums[kSquare] = sums[kSquare] + squares[i];
      sums[kSlow2] = W::Fma(slow, slow, sums[kSlow2]);
      sums[kPrevious2] = W::Fma(previous, previous, sums[kPrevious2]);
      sums[kSharp2] = W::Fma(sharp, sharp, sums[kSharp2]);
      sums[kSmooth2] = W::Fma(smooth, smooth, sums[kSmooth2]);
      sums[kGradOld] = W::Fma(g, old, sums[kGradOld]);
      sums[kSharpSlow] = W::Fma(sharp, slow, sums[kSharpSlow]);
      sums[kSmoothSlow] = W::Fma(smooth, slow, sums[kSmoothSlow]);
      sums[kSharpPrevious] = W::Fma(sharp, previous, sums[kSharpPrevious]);
      sharp_[j][i] = sharp;
      smooth_[j][i] = smooth;
    }
  }

  static MNEMOSYNE_DEVICE F LogRatio(F above, F below, F least) {
    const F one(1.0F), limit(2980.95799F);  // e^8
    const B both = least < above && least < below;
    const F ratio = W::Divide(W::Select(both, above, one), W::Select(both, below, one));
    return F(0.25F) * W::Log(W::Max(W::Min(ratio, limit), F(1.0F / 2980.95799F)));
  }

  struct Norm {
    F square, root;

    MNEMOSYNE_DEVICE Norm(F sum, F least)
        : square(sum), root(W::Sqrt(W::Select(least < sum, sum, F(1.0F)))) {}
  };

  static MNEMOSYNE_DEVICE F Cosine(F product, const Norm& left, const Norm& right, F least) {
    const F one(1.0F);
    const F cosine = W::Divide(W::Divide(product, left.root), right.root);
    return W::Select(least < left.square && least < right.square,
                     W::Max(W::Min(cosine, one), F(-1.0F)), F(0.0F));
  }

  // The statistics that cells and chunks have in common.
  static MNEMOSYNE_DEVICE void Statistics(const F (&sums)[kSums], F size, F least, F* features) {
    const Norm grad(sums[kGrad2], least), old(sums[kOld2], least), slow(sums[kSlow2], least);
    const Norm sharp(sums[kSharp2], least), smooth(sums[kSmooth2], least);
    const Norm previous(sums[kPrevious2], least);
    features[0] = LogRatio(sums[kGrad2], sums[kSquare], least);
    features[1] = Cosine(sums[kGradOld], grad, old, least);
    features[2] = Cosine(sums[kSharpSlow], sharp, slow, least);
    features[3] = Cosine(sums[kSmoothSlow], smooth, slow, least);
    features[4] = Cosine(sums[kSharpPrevious], sharp, previous, least);
    features[5] = LogRatio(sums[kSmooth2], size, least);
    features[6] = LogRatio(sums[kSlow2], size, least);
    features[7] = LogRatio(sums[kPrevious2], size, least);
    features[8] = LogRatio(sums[kSharp2], size, least);
  }

  // y = x W + b with the same weights for all lanes: W and b [inputs + 1, 16].
  template <int kInputs>
  MNEMOSYNE_DEVICE void Dense(int place, const F* x, F (&y)[16]) const {
    const float* const w = weights_ + place;
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < 16; k += 4) {
      const Four b = Uniform(w + kInputs * 16 + k);
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) y[k + e] = F(b.x[e]);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < kInputs; ++i) {
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 16; k += 4) {
        const Four row = Uniform(w + i * 16 + k);
        MNEMOSYNE_UNROLL_ALL
        for (int e = 0; e < 4; ++e) y[k + e] = W::Fma(x[i], F(row.x[e]), y[k + e]);
      }
    }
  }

  // Features of a bounded query or key, with positions: `joined` [8], side 0 or 1.
  MNEMOSYNE_DEVICE void CellFeatures(const F* joined, int side, B there, F (&phi)[16]) const {
    F x[12];
    F square(1.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 8; ++i) square = W::Fma(joined[i], joined[i], square);
    const F factor = W::Divide(F(1.0F), W::Sqrt(square));
    F half(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 8; ++i) x[i] = joined[i] * factor;
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      const I place = cell_ + (side * 4 + i) * cells_;
      x[8 + i] = F(knobs_.gate_flt) * W::LoadIf(there, at_.positions, place);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 12; ++i) half = W::Fma(x[i], x[i], half);
    half = F(0.5F) * half;
    Dense<12>(WarpWeights::kMap, x, phi);
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < 16; ++m) phi[m] = F(model_.cell_scale) * W::Exp(phi[m] - half);
  }

  // Level 1: tokens of cells, attention among them, their gains, and the means over cells of
  // tokens and hidden rows, the first inputs of the pooling.
  MNEMOSYNE_DEVICE void EncodeCells(const F (&sums)[kSums], const F (&means)[kSums]) {
    const B there = cell_ < I(cells_);
    const F zero(0.0F), least(kSquareMin);
    const F size = W::Max(W::Min(W::ToFloats(I(count_) - cell_ * 32), F(32.0F)), zero);
    F token[16], phi[16];
    {
      F features[11];
      Statistics(sums, size, least, features);
      features[9] = LogRatio(sums[kSquare], size * means[kSquare], least);
      features[10] = LogRatio(sums[kSlow2], size * means[kSlow2], least);
      Dense<11>(WarpWeights::kEmbed, features, token);
      MNEMOSYNE_UNROLL_ALL
      for (int d = 0; d < 16; ++d) token[d] = Tanh(token[d]);
    }
    {
      F joined[16];
      Dense<16>(WarpWeights::kHeads, token, joined);
      CellFeatures(joined + 8, 1, there, phi);
      MNEMOSYNE_UNROLL_ALL
      for (int m = 0; m < 16; m += 4) {
        F keys[4], row[4];
        MNEMOSYNE_UNROLL_ALL
        for (int e = 0; e < 4; ++e) {
          keys[e] = W::Select(there, phi[m + e], zero);
          row[e] = token[m + e];
        }
        const I place = lane_ * WarpScratch::kStride + m;
        W::StoreFour(scratch_ + WarpScratch::kKeys, place, keys);
        W::StoreFour(scratch_ + WarpScratch::kRows, place, row);
      }
      CellFeatures(joined, 0, there, phi);
    }
    W::Sync();
    MergeContents();
    W::Sync();
    ReadContents(phi, token);

    F hidden[16];
    Dense<16>(WarpWeights::kExpand, token, hidden);
    const float* const gains = weights_ + WarpWeights::kGain;
    F gain(gains[32]);
    F all[32];
    MNEMOSYNE_UNROLL_ALL
    for (int d = 0; d < 16; ++d) {
      hidden[d] = W::Max(hidden[d], zero);
      gain = W::Fma(F(gains[d]), token[d], gain);
      gain = W::Fma(F(gains[16 + d]), hidden[d], gain);
      all[d] = W::Select(there, token[d], zero);
      all[16 + d] = W::Select(there, hidden[d], zero);
    }
    gain_ = W::Exp(F(knobs_.gate_cell_gain * kLogGainRange) * Tanh(gain));
    W::StoreIf(there, at_.gains, cell_, gain_);
    const F mean = F(1.0F / static_cast<float>(cells_)) * FoldAll(all);
    W::StoreIf(B(true), scratch_ + WarpScratch::kPoolInputs, lane_, mean);
  }

  // Sums over cells of phi(k) with tokens, then through the map of values: a lane has a feature and
  // half of the columns.
  MNEMOSYNE_DEVICE void MergeContents() const {
    const float* const keys = scratch_ + WarpScratch::kKeys;
    const float* const rows = scratch_ + WarpScratch::kRows;
    const I m = lane_ >> 1, first = (lane_ & 1) * 8;
    F sums[8], mass(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int e = 0; e < 8; ++e) sums[e] = F(0.0F);
#ifdef __CUDACC__
#pragma unroll 8
#endif
    for (int c = 0; c < 32; ++c) {
      const F key = W::Load(keys, m + c * WarpScratch::kStride);
      F low[4], high[4];
      W::LoadFour(rows, first + c * WarpScratch::kStride, low);
      W::LoadFour(rows, first + (c * WarpScratch::kStride + 4), high);
      mass = mass + key;
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) {
        sums[e] = W::Fma(key, low[e], sums[e]);
        sums[4 + e] = W::Fma(key, high[e], sums[4 + e]);
      }
    }
    const B lower = first == I(0);
    F merged[8];
    const float* const map = weights_ + WarpWeights::kValues;
    AddRow(map + 16 * 16, first, mass, merged, /*fresh=*/true);
    MNEMOSYNE_UNROLL_ALL
    for (int e = 0; e < 8; ++e) {
      const F other = W::Exchange(sums[e], 1);
      AddRow(map + e * 16, first, W::Select(lower, sums[e], other), merged, false);
      AddRow(map + (8 + e) * 16, first, W::Select(lower, other, sums[e]), merged, false);
    }
    const F low[4] = {merged[0], merged[1], merged[2], merged[3]};
    const F high[4] = {merged[4], merged[5], merged[6], merged[7]};
    W::StoreFour(scratch_ + WarpScratch::kContent, m * 16 + first, low);
    W::StoreFour(scratch_ + WarpScratch::kContent, m * 16 + first + I(4), high);
    W::StoreIf(lower, scratch_ + WarpScratch::kMass, m, mass);
  }

  static MNEMOSYNE_DEVICE void AddRow(const float* row, I first, F factor, F (&sums)[8],
                                      bool fresh) {
    F low[4], high[4];
    W::LoadFour(row, first, low);
    W::LoadFour(row + 4, first, high);
    MNEMOSYNE_UNROLL_ALL
    for (int e = 0; e < 4; ++e) {
      sums[e] = W::Fma(factor, low[e], fresh ? F(0.0F) : sums[e]);
      sums[4 + e] = W::Fma(factor, high[e], fresh ? F(0.0F) : sums[4 + e]);
    }
  }

  // What the queries read, added to the tokens.
  MNEMOSYNE_DEVICE void ReadContents(const F (&phi)[16], F (&token)[16]) const {
    const float* const content = scratch_ + WarpScratch::kContent;
    F above[16], below(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int d = 0; d < 16; ++d) above[d] = F(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < 16; ++m) {
      below = W::Fma(phi[m], F(scratch_[WarpScratch::kMass + m]), below);
      MNEMOSYNE_UNROLL_ALL
      for (int d = 0; d < 16; d += 4) {
        const Four row = Uniform(content + m * 16 + d);
        MNEMOSYNE_UNROLL_ALL
        for (int e = 0; e < 4; ++e) above[d + e] = W::Fma(phi[m], F(row.x[e]), above[d + e]);
      }
    }
    const F factor = DivideOrZero(F(knobs_.gate_level1), below);
    MNEMOSYNE_UNROLL_ALL
    for (int d = 0; d < 16; ++d) {
      const F bias(knobs_.gate_level1 * weights_[WarpWeights::kMerge + d]);
      token[d] = W::Fma(above[d], factor, token[d] + bias);
    }
  }

  // What the chunk is told of itself: the other inputs of the pooling.
  MNEMOSYNE_DEVICE void Describe(const F (&means)[kSums], float old_mean_square) {
    float* const inputs = scratch_ + WarpScratch::kPoolInputs + 32;
    const F least(kSquareMin * share_);
    F features[11];
    Statistics(means, F(1.0F), least, features);
    features[9] = LogRatio(F(old_mean_square), F(at_.tensor_mean_square), least);
    features[10] = F(0.25F * choice_.log_step);
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < 11; ++k) W::StoreIf(lane_ == I(0), inputs + k, I(0), features[k]);
    const B condition = lane_ < I(static_cast<int>(kConditionCount));
    W::StoreIf(condition, inputs + 11, lane_, W::LoadIf(condition, at_.step->conditions, lane_));
    W::Sync();
  }

  // An output of x W + b for each lane: `x` [inputs] is the same for all, W and b [inputs + 1, 32].
  template <int kInputs>
  MNEMOSYNE_DEVICE F Across(const float* x, int place) const {
    const float* const w = weights_ + place;
    F sums[4] = {W::Load(w + kInputs * 32, lane_), F(0.0F), F(0.0F), F(0.0F)};
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < kInputs; i += 4) {
      const Four four = Uniform(x + i);
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) {
        if (i + e >= kInputs) continue;
        sums[e] = W::Fma(F(four.x[e]), W::Load(w + (i + e) * 32, lane_), sums[e]);
      }
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  MNEMOSYNE_DEVICE void MakeToken() {
    const F token = Tanh(
        Across<WarpSizes::kPoolInputs>(scratch_ + WarpScratch::kPoolInputs, WarpWeights::kPool));
    W::StoreIf(B(true), at_.token, lane_, token);
    W::StoreIf(B(true), scratch_ + WarpScratch::kDecoderInputs, lane_, token);
    W::Sync();
  }

  // The memory in time. Lanes have 8 numbers of the query, 8 of the key and 16 of the value; then a
  // feature of a head of the query, or of the key; then contents of each head.
  MNEMOSYNE_DEVICE void Remember() {
    float* const inputs = scratch_ + WarpScratch::kDecoderInputs;
    const F joined = Across<32>(inputs, WarpWeights::kMemoryHeads);
    const F square = SumEight(joined * joined), above = square + F(1.0F);
    const F bounded = W::Divide(joined, W::Sqrt(above));
    const F half = F(0.5F) * W::Divide(square, above);
    const I side = (lane_ >> 4) * 8, feature = lane_ & 15;
    const float* const maps = weights_ + WarpWeights::kMemoryMaps;
    F exponent = W::Load(maps + 8 * 16, feature);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 8; ++i) {
      exponent = W::Fma(W::Shuffle(bounded, side + i), W::Load(maps + i * 16, feature), exponent);
    }
    const F phi = F(model_.memory_scale) * W::Exp(exponent - W::Shuffle(half, side));

    const B masses = lane_ < I(16);
    const F discount =
        W::Select((lane_ & 8) == I(0), F(model_.discounts[0]), F(model_.discounts[1]));
    const F key = W::Shuffle(phi, feature + 16);
    const F mass = W::Fma(discount, W::LoadIf(masses, at_.mass, feature), key);
    W::StoreIf(masses, at_.mass, feature, mass);
    const F below = SumEight(phi * mass);  // Of head h in lanes 8 h and on.

    F values[4];
    MNEMOSYNE_UNROLL_ALL
    for (int e = 0; e < 4; ++e) values[e] = W::Shuffle(joined, (lane_ & 3) * 4 + (16 + e));
    F reads[8];
    MNEMOSYNE_UNROLL_ALL
    for (int head = 0; head < 2; ++head) {
      const I m = (lane_ >> 2) + head * 8;
      const F write = W::Shuffle(phi, m + 16), query = W::Shuffle(phi, m);
      F content[4];
      W::LoadStream(at_.content, lane_ * 4 + head * 128, content);
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) {
        content[e] = W::Fma(write, values[e], F(model_.discounts[head]) * content[e]);
        reads[head * 4 + e] = query * content[e];
      }
      W::StoreStream(at_.content, lane_ * 4 + head * 128, content);
    }
    // Over the lanes with the same columns; bit 4 keeps a head, bits 3 and 2 a column of four.
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) reads[i] = Fold(reads[i], reads[i + 4], 16);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 2; ++i) reads[i] = Fold(reads[i], reads[i + 2], 8);
    const F read = Fold(reads[0], reads[1], 4);
    const F divided = DivideOrZero(read, W::Shuffle(below, (lane_ >> 4) * 8));
    const I column = (lane_ >> 4) * 16 + (lane_ & 3) * 4 + ((lane_ >> 2) & 3);
    W::StoreIf(B(true), inputs + 32, column, F(knobs_.gate_cam) * divided);
  }

  // The contexts: a lane has a column of one of the two.
  MNEMOSYNE_DEVICE void AttendToOthers() {
    const B own = lane_ < I(16);
    const B other = I(15) < lane_;
    const I column = lane_ & 15, queries = (lane_ >> 4) * 16;
    F above(0.0F), below(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < 16; ++m) {
      const F phi = W::Load(at_.context_query + m, queries);
      const I place = column + m * 17, last = I(m * 17 + 16);
      const F number =
          W::LoadIf(own, at_.context_contents, place) + W::LoadIf(other, at_.context_all, place);
      const F mass =
          W::LoadIf(own, at_.context_contents, last) + W::LoadIf(other, at_.context_all, last);
      above = W::Fma(phi, number, above);
      below = W::Fma(phi, mass, below);
    }
    const F gate = W::Select(own, F(knobs_.gate_level2), F(knobs_.gate_across));
    W::StoreIf(B(true), scratch_ + WarpScratch::kDecoderInputs + 64, lane_,
               gate * DivideOrZero(above, below));
    W::Sync();
  }

  MNEMOSYNE_DEVICE F Approach(float current, F target) const {
    return W::Fma(F(knobs_.smoothing), target - F(current), F(current));
  }

  // The decoder, and what follows from its numbers.
  MNEMOSYNE_DEVICE void Decide() {
    const F hidden = Tanh(Across<WarpSizes::kDecoderInputs>(scratch_ + WarpScratch::kDecoderInputs,
                                                            WarpWeights::kDecoder));
    F out[8];
    {
      const float* const map = weights_ + WarpWeights::kDecision;
      F low[4], high[4];
      W::LoadFour(map, lane_ * 8, low);
      W::LoadFour(map + 4, lane_ * 8, high);
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) {
        out[e] = F(map[32 * 8 + e]) + SumAll(hidden * low[e]);
        if (e < 2) out[4 + e] = F(map[32 * 8 + 4 + e]) + SumAll(hidden * high[e]);
      }
    }
    log_sharp_ = Approach(choice_.log_sharp, F(knobs_.gate_mixture * kSharpRange) * Tanh(out[5]));
    log_fast_ = Approach(choice_.log_fast, F(knobs_.gate_mixture * kFastRange) * Tanh(out[1]));
    log_slow_ = Approach(choice_.log_slow, F(knobs_.gate_mixture * kSlowRange) * Tanh(out[2]));
    const F end = W::Select(out[0] < F(0.0F), F(knobs_.eta_low), F(knobs_.eta_high));
    const F target = end * Tanh(W::Divide(F(2.0F) * out[0], end));
    const F change = F(knobs_.smoothing) * (target - F(choice_.log_step));
    log_step_ = F(choice_.log_step) + W::Min(change, F(knobs_.eta_rise));

    const F fall(at_.step->fall);
    weight_sharp_ = F(knobs_.sharp_weight) * fall * W::Exp(log_sharp_);
    weight_fast_ = F(knobs_.fast_weight) * fall * W::Exp(log_fast_);
    weight_slow_ = F(knobs_.slow_weight) * W::Exp(log_slow_);
    step_ = F(at_.tensor->prior_step * at_.step->warm) * W::Exp(log_step_);
    const F decay = F(knobs_.decay) * W::Exp(F(knobs_.gate_decay * kDecayRange) * Tanh(out[4]));
    shrink_ = F(at_.tensor->decays) * decay * step_ * (weight_sharp_ + weight_fast_ + weight_slow_);
    growth_ = W::Fma(F(knobs_.growth), W::Exp(F(knobs_.gate_growth * kGrowthRange) * Tanh(out[3])),
                     F(1.0F));
  }

  // r2 takes in the direction, the update takes the gradient's place, and the choice is kept.
  MNEMOSYNE_DEVICE void WriteUpdates(double* square_sum, uint32_t* capped) {
    Reading reading(choice_, knobs_);
    reading.sharp_scale = sharp_scale_;
    reading.weight_sharp = weight_sharp_;
    reading.weight_fast = weight_fast_;
    reading.weight_slow = weight_slow_;
    reading.level = F(at_.step->level);
    reading.negative_step = F(0.0F) - step_;
    const F rate = W::Divide(growth_, F(at_.step->age) + (growth_ - F(1.0F)));
    D sum(0.0);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kLoads; ++j) {
      // Load j has the cells of four lanes.
      const F gain = W::Shuffle(gain_, (lane_ & 24) + j);
      F slows[4];
      W::LoadFour(scratch_ + WarpScratch::kSlow + 128 * j, lane_ * 4, slows);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        const F sharp = sharp_scale_ * sharp_[j][i], old = slows[i];
        slows[i] = W::Fma(rate, sharp - old, old);
        sharp_[j][i] = reading.Update(sharp, smooth_[j][i], slows[i], gain);
        AddSquare(sharp_[j][i], sum);
      }
      StoreFour(at_.slow, j, slows);
    }
    D total = Total(sum);
    const double limit = static_cast<double>(at_.step->limit);
    const D most(limit * limit * static_cast<double>(count_));
    const B over = most < total;
    const F share = W::ToFloat(W::DivideDouble(most, total));
    const F cap = W::Select(over, W::Sqrt(share), F(1.0F));
    sum = D(0.0);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kLoads; ++j) {
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        sharp_[j][i] = cap * sharp_[j][i];
        AddSquare(sharp_[j][i], sum);
      }
      StoreFour(at_.values, j, sharp_[j]);
    }
    Answer(Total(sum), over, square_sum, capped);
    KeepChoice(cap);
  }

  MNEMOSYNE_DEVICE void KeepChoice(F cap) const {
    const B first = lane_ == I(0);
    const auto keep = [&](float& target, F value) { W::StoreIf(first, &target, I(0), value); };
    MnemosyneChoice& kept = *at_.choice;
    keep(kept.log_step, log_step_);
    keep(kept.log_sharp, log_sharp_);
    keep(kept.log_fast, log_fast_);
    keep(kept.log_slow, log_slow_);
    keep(kept.mean_square, mean_square_);
    keep(kept.shrink, shrink_);
    keep(kept.floor, floor_);
    keep(kept.sharp_scale, sharp_scale_);
    keep(kept.weight_sharp, weight_sharp_);
    keep(kept.weight_fast, weight_fast_);
    keep(kept.weight_slow, weight_slow_);
    keep(kept.step, step_);
    keep(kept.level, F(at_.step->level));
    keep(kept.cap, cap);
  }

  const WarpModel& model_;
  const MnemosyneKnobs& knobs_;
  const float* const weights_;
  float* const scratch_;
  const MnemosyneChunkStep& at_;
  const I lane_;
  const int count_, cells_;
  const bool full_;
  const float share_;
  const I cell_;
  const MnemosyneChoice& choice_;

  F sharp_[kLoads][4], smooth_[kLoads][4];
  F mean_square_, floor_, sharp_scale_, gain_;
  F log_sharp_, log_fast_, log_slow_, log_step_;
  F weight_sharp_, weight_fast_, weight_slow_, step_, shrink_, growth_;
};

}  // namespace mnemosyne::kernels::cuda
