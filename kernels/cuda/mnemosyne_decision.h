// What a chunk decides in a step, as the program of some warps of its team for models of the
// shipped sizes: level 1 over its cells, one to each lane, the chunk's token, its memory in time,
// the contexts, the decoder. What depends on each other is the work of the first warp; the others
// take off it what does not.
//
// Written in the lanes of `W`; see warp_functions.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/mnemosyne_team_layout.h"
#include "kernels/cuda/warp_functions.h"

namespace mnemosyne::kernels::cuda {

template <class W>
class ChunkDecision : private WarpFunctions<W> {
  using Functions = WarpFunctions<W>;
  using F = typename W::Floats;
  using I = typename W::Ints;
  using B = typename W::Bools;
  using Four = typename Functions::Four;
  using Functions::DivideOrZero;
  using Functions::Fold;
  using Functions::FoldSixteen;
  using Functions::Sum;
  using Functions::SumEight;
  using Functions::Tanh;
  using Functions::Uniform;

 public:
  // `weights` are as TeamWeights has them; `before` is a copy of what the chunk has chosen so far.
  // `scratch` has the sums of the chunk's cells; those that are not there are zeros.
  MNEMOSYNE_DEVICE ChunkDecision(const TeamModel& model, const float* weights, TeamScratch& scratch,
                                 const MnemosyneChunkStep& at, const MnemosyneChoice& before)
      : model_(model),
        knobs_(model.knobs),
        weights_(weights),
        scratch_(scratch),
        at_(at),
        lane_(W::Lane()),
        count_(static_cast<int>(at.chunk->count)),
        cells_(static_cast<int>(at.chunk->cells)),
        choice_(before) {}

  // The parts of a decision. The team calls them in this order, all warps a part before any of them
  // the next one. After them the gains of cells, the growth of keys, and the choice but for its
  // floor and cap are in the scratch; gains, token and memory also in the state.

  // What can be known of the sums alone, by kFirstWarps warps.
  static constexpr int kFirstWarps = 5;
  MNEMOSYNE_DEVICE void First(int warp) {
    if (warp == 3) return AttendToOthers();
    if (warp == 4) return FetchMemory();
    F means[kSums], sums[kSums];
    ReadSums(sums, means);
    if (warp == 2) return Describe(means);
    EncodeCells(sums, means, warp);
  }

  // The token, by the first warp.
  MNEMOSYNE_DEVICE void Second() {
    AttendToCells();
    MakeToken();
  }

  // What the memory says to it, and what the decoder makes of the rest, by kThirdWarps warps.
  static constexpr int kThirdWarps = 2;
  MNEMOSYNE_DEVICE void Third(int warp) {
    if (warp == 0) return Remember();
    const F rest = Across<32>(scratch_.decoder_inputs + 64, TeamWeights::kDecoder + 64 * 32) +
                   W::Load(weights_ + TeamWeights::kDecoder + 96 * 32, lane_);
    const F token = Across<32>(scratch_.decoder_inputs, TeamWeights::kDecoder);
    W::StoreIf(B(true), scratch_.hidden, lane_, token + rest);
  }

  // The decoder, and what follows from its numbers, by the first warp.
  MNEMOSYNE_DEVICE void Last() {
    const F reads = Across<32>(scratch_.decoder_inputs + 32, TeamWeights::kDecoder + 32 * 32);
    Decide(Tanh(W::Load(scratch_.hidden, lane_) + reads));
  }

 private:
  // The sums of the lane's cell, and their means over the chunk.
  MNEMOSYNE_DEVICE void ReadSums(F (&sums)[kSums], F (&means)[kSums]) {
    const F share(1.0F / static_cast<float>(count_));
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < kSums; k += 4) {
      F four[4];
      W::LoadFour(scratch_.sums, lane_ * TeamScratch::kRow + k, four);
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) {
        if (k + e < kSums) sums[k + e] = four[e];
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < kSums; ++k) means[k] = Sum(share * sums[k]);
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

  // y = x W + b with the same weights for all lanes: W and b [inputs + 1, stride].
  template <int kInputs, int kStride = 8>
  MNEMOSYNE_DEVICE void Dense(int place, const F* x, F (&y)[8]) const {
    const float* const w = weights_ + place;
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < 8; k += 4) {
      const Four b = Uniform(w + kInputs * kStride + k);
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) y[k + e] = F(b.x[e]);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < kInputs; ++i) {
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < 8; k += 4) {
        const Four row = Uniform(w + i * kStride + k);
        MNEMOSYNE_UNROLL_ALL
        for (int e = 0; e < 4; ++e) y[k + e] = W::Fma(x[i], F(row.x[e]), y[k + e]);
      }
    }
  }

  // Features of a bounded query or key, `joined` [8], with its positions.
  MNEMOSYNE_DEVICE void CellFeatures(const F (&joined)[8], const F (&positions)[4],
                                     F (&phi)[8]) const {
    F x[12];
    F square(1.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 8; ++i) square = W::Fma(joined[i], joined[i], square);
    const F factor = W::Divide(F(1.0F), W::Sqrt(square));
    F half(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 8; ++i) x[i] = joined[i] * factor;
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) x[8 + i] = F(knobs_.gate_flt) * positions[i];
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 12; ++i) half = W::Fma(x[i], x[i], half);
    half = F(0.5F) * half;
    Dense<12>(TeamWeights::kMap, x, phi);
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < 8; ++m) phi[m] = F(model_.cell_scale) * W::Exp(phi[m] - half);
  }

  // Tokens of cells before level 1 and features of their keys, by the first warp; of their queries,
  // by the second.
  MNEMOSYNE_DEVICE void EncodeCells(const F (&sums)[kSums], const F (&means)[kSums], int side) {
    constexpr float kCell = TeamSizes::kCell;
    const B there = lane_ < I(cells_);
    const F zero(0.0F), least(kSquareMin);
    F positions[4];  // They come while the rest is computed.
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      const I place = lane_ + ((1 - side) * 4 + i) * cells_;
      positions[i] = W::LoadIf(there, at_.positions, place);
    }
    const F size =
        W::Max(W::Min(W::ToFloats(I(count_) - lane_ * TeamSizes::kCell), F(kCell)), zero);
    F features[11], token[8], joined[8], phi[8];
    Statistics(sums, size, least, features);
    features[9] = LogRatio(sums[kSquare], size * means[kSquare], least);
    features[10] = LogRatio(sums[kSlow2], size * means[kSlow2], least);
    Dense<11>(TeamWeights::kEmbed, features, token);
    MNEMOSYNE_UNROLL_ALL
    for (int d = 0; d < 8; ++d) token[d] = Tanh(token[d]);
    Dense<8, 16>(TeamWeights::kHeads + (1 - side) * 8, token, joined);
    CellFeatures(joined, positions, phi);
    float* const to = side == 0 ? scratch_.keys : scratch_.queries;
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < 8; m += 4) {
      F row[4];
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) row[e] = W::Select(there, phi[m + e], zero);
      W::StoreFour(to, lane_ * TeamScratch::kRow + m, row);
      if (side != 0) continue;
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) row[e] = token[m + e];
      W::StoreFour(scratch_.rows, lane_ * TeamScratch::kRow + m, row);
    }
  }

  // Level 1: attention among the cells, their gains, and the means over cells of tokens and hidden
  // rows, the first inputs of the pooling.
  MNEMOSYNE_DEVICE void AttendToCells() {
    const B there = lane_ < I(cells_);
    const F zero(0.0F);
    F token[8], phi[8];
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < 8; m += 4) {
      F queries[4], row[4];
      W::LoadFour(scratch_.queries, lane_ * TeamScratch::kRow + m, queries);
      W::LoadFour(scratch_.rows, lane_ * TeamScratch::kRow + m, row);
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) {
        phi[m + e] = queries[e];
        token[m + e] = row[e];
      }
    }
    MergeContents();
    W::Sync();
    ReadContents(phi, token);

    F hidden[8];
    Dense<8>(TeamWeights::kExpand, token, hidden);
    const float* const gains = weights_ + TeamWeights::kGain;
    F gain(gains[16]);
    F all[16];
    MNEMOSYNE_UNROLL_ALL
    for (int d = 0; d < 8; ++d) {
      hidden[d] = W::Max(hidden[d], zero);
      gain = W::Fma(F(gains[d]), token[d], gain);
      gain = W::Fma(F(gains[8 + d]), hidden[d], gain);
      all[d] = W::Select(there, token[d], zero);
      all[8 + d] = W::Select(there, hidden[d], zero);
    }
    gain = W::Exp(F(knobs_.gate_cell_gain * kLogGainRange) * Tanh(gain));
    W::StoreIf(there, at_.gains, lane_, gain);
    W::StoreIf(B(true), scratch_.gains, lane_, gain);
    const F mean = F(1.0F / static_cast<float>(cells_)) * FoldSixteen(all);
    W::StoreIf(lane_ < I(16), scratch_.pool_inputs, lane_, mean);
    W::Sync();
  }

  // Sums over cells of phi(k) with tokens, then through the map of values: a lane has a feature and
  // two columns.
  MNEMOSYNE_DEVICE void MergeContents() const {
    const I m = lane_ >> 2, first = (lane_ & 3) * 2;
    F sums[2] = {F(0.0F), F(0.0F)}, mass(0.0F);
#ifdef __CUDACC__
#pragma unroll 8
#endif
    for (int c = 0; c < TeamSizes::kCells; ++c) {
      const int row = c * TeamScratch::kRow;
      const F key = W::Load(scratch_.keys + row, m);
      mass = mass + key;
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 2; ++e) {
        sums[e] = W::Fma(key, W::Load(scratch_.rows + row + e, first), sums[e]);
      }
    }
    const float* const map = weights_ + TeamWeights::kValues;
    F merged[2];
    MNEMOSYNE_UNROLL_ALL
    for (int e = 0; e < 2; ++e) merged[e] = mass * W::Load(map + 8 * 8 + e, first);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 8; ++i) {
      const F sum = W::Shuffle(sums[i % 2], m * 4 + i / 2);
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 2; ++e) {
        merged[e] = W::Fma(sum, W::Load(map + i * 8 + e, first), merged[e]);
      }
    }
    MNEMOSYNE_UNROLL_ALL
    for (int e = 0; e < 2; ++e) {
      W::StoreIf(B(true), scratch_.content + e, m * 8 + first, merged[e]);
    }
    W::StoreIf(first == I(0), scratch_.mass, m, mass);
  }

  // What the queries read, added to the tokens.
  MNEMOSYNE_DEVICE void ReadContents(const F (&phi)[8], F (&token)[8]) const {
    F above[8], below(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int d = 0; d < 8; ++d) above[d] = F(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < 8; ++m) {
      below = W::Fma(phi[m], F(scratch_.mass[m]), below);
      MNEMOSYNE_UNROLL_ALL
      for (int d = 0; d < 8; d += 4) {
        const Four row = Uniform(scratch_.content + m * 8 + d);
        MNEMOSYNE_UNROLL_ALL
        for (int e = 0; e < 4; ++e) above[d + e] = W::Fma(phi[m], F(row.x[e]), above[d + e]);
      }
    }
    const F factor = DivideOrZero(F(knobs_.gate_level1), below);
    MNEMOSYNE_UNROLL_ALL
    for (int d = 0; d < 8; ++d) {
      const F bias(knobs_.gate_level1 * weights_[TeamWeights::kMerge + d]);
      token[d] = W::Fma(above[d], factor, token[d] + bias);
    }
  }

  // What the chunk is told of itself: the other inputs of the pooling.
  MNEMOSYNE_DEVICE void Describe(const F (&means)[kSums]) {
    const F limit(knobs_.write_limit);
    Keep(scratch_.next.mean_square, means[kSquare]);
    Keep(scratch_.next.sharp_scale, W::Divide(limit, W::Max(W::Sqrt(means[kSharp2]), limit)));
    float* const inputs = scratch_.pool_inputs + 16;
    const F least(kSquareMin / static_cast<float>(count_));
    F features[11];
    Statistics(means, F(1.0F), least, features);
    features[9] = LogRatio(F(choice_.mean_square), F(at_.tensor_mean_square), least);
    features[10] = F(0.25F * choice_.log_step);
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < 11; ++k) Keep(inputs[k], features[k]);
    const B condition = lane_ < I(static_cast<int>(kConditionCount));
    W::StoreIf(condition, inputs + 11, lane_, W::LoadIf(condition, at_.step->conditions, lane_));
  }

  // An output of x W for each lane: `x` [inputs] is the same for all, W [inputs, 32].
  template <int kInputs>
  MNEMOSYNE_DEVICE F Across(const float* x, int place) const {
    const float* const w = weights_ + place;
    F sums[4] = {F(0.0F), F(0.0F), F(0.0F), F(0.0F)};
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
    constexpr int kInputs = TeamSizes::kPoolInputs;
    const F bias = W::Load(weights_ + TeamWeights::kPool + kInputs * 32, lane_);
    const F token = Tanh(Across<kInputs>(scratch_.pool_inputs, TeamWeights::kPool) + bias);
    W::StoreIf(B(true), at_.token, lane_, token);
    W::StoreIf(B(true), scratch_.decoder_inputs, lane_, token);
  }

  // The memory as it was, to the scratch.
  MNEMOSYNE_DEVICE void FetchMemory() {
    F contents[2][4];
    MNEMOSYNE_UNROLL_ALL
    for (int head = 0; head < 2; ++head) {
      W::LoadStream(at_.content, lane_ * 4 + head * 128, contents[head]);
    }
    const B masses = lane_ < I(16);
    const F mass = W::LoadIf(masses, at_.mass, lane_);
    MNEMOSYNE_UNROLL_ALL
    for (int head = 0; head < 2; ++head) {
      W::StoreFour(scratch_.memory, lane_ * 4 + head * 128, contents[head]);
    }
    W::StoreIf(masses, scratch_.memory + 256, lane_, mass);
  }

  // The memory in time. Lanes have 8 numbers of the query, 8 of the key and 16 of the value; then a
  // feature of a head of the query, or of the key; then contents of each head.
  MNEMOSYNE_DEVICE void Remember() {
    float* const inputs = scratch_.decoder_inputs;
    const F joined = Across<32>(inputs, TeamWeights::kMemoryHeads) +
                     W::Load(weights_ + TeamWeights::kMemoryHeads + 32 * 32, lane_);
    const F square = SumEight(joined * joined), above = square + F(1.0F);
    const F bounded = W::Divide(joined, W::Sqrt(above));
    const F half = F(0.5F) * W::Divide(square, above);
    const I side = (lane_ >> 4) * 8, feature = lane_ & 15;
    const float* const maps = weights_ + TeamWeights::kMemoryMaps;
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
    const F mass = W::Fma(discount, W::LoadIf(masses, scratch_.memory + 256, feature), key);
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
      W::LoadFour(scratch_.memory, lane_ * 4 + head * 128, content);
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
    constexpr int kFeatures = TeamSizes::kContextFeatures;
    const I column = lane_ & 15, queries = (lane_ >> 4) * kFeatures;
    F above(0.0F), below(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int m = 0; m < kFeatures; ++m) {
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
    W::StoreIf(B(true), scratch_.decoder_inputs + 64, lane_, gate * DivideOrZero(above, below));
  }

  MNEMOSYNE_DEVICE F Approach(float current, F target) const {
    return W::Fma(F(knobs_.smoothing), target - F(current), F(current));
  }

  // `hidden` is a row of the decoder.
  MNEMOSYNE_DEVICE void Decide(F hidden) {
    F out[8];
    {
      const float* const map = weights_ + TeamWeights::kDecision;
      F low[4], high[4];
      W::LoadFour(map, lane_ * 8, low);
      W::LoadFour(map + 4, lane_ * 8, high);
      MNEMOSYNE_UNROLL_ALL
      for (int e = 0; e < 4; ++e) {
        out[e] = F(map[32 * 8 + e]) + Sum(hidden * low[e]);
        if (e < 2) out[4 + e] = F(map[32 * 8 + 4 + e]) + Sum(hidden * high[e]);
      }
    }
    MnemosyneChoice& next = scratch_.next;
    const F log_sharp =
        Approach(choice_.log_sharp, F(knobs_.gate_mixture * kSharpRange) * Tanh(out[5]));
    const F log_fast =
        Approach(choice_.log_fast, F(knobs_.gate_mixture * kFastRange) * Tanh(out[1]));
    const F log_slow =
        Approach(choice_.log_slow, F(knobs_.gate_mixture * kSlowRange) * Tanh(out[2]));
    const F end = W::Select(out[0] < F(0.0F), F(knobs_.eta_low), F(knobs_.eta_high));
    const F target = end * Tanh(W::Divide(F(2.0F) * out[0], end));
    const F change = F(knobs_.smoothing) * (target - F(choice_.log_step));
    const F log_step = F(choice_.log_step) + W::Min(change, F(knobs_.eta_rise));

    const F fall(at_.step->fall);
    const F sharp = F(knobs_.sharp_weight) * fall * W::Exp(log_sharp);
    const F fast = F(knobs_.fast_weight) * fall * W::Exp(log_fast);
    const F slow = F(knobs_.slow_weight) * W::Exp(log_slow);
    const F step = F(at_.tensor->prior_step * at_.step->warm) * W::Exp(log_step);
    const F decay = F(knobs_.decay) * W::Exp(F(knobs_.gate_decay * kDecayRange) * Tanh(out[4]));
    Keep(next.log_step, log_step);
    Keep(next.log_sharp, log_sharp);
    Keep(next.log_fast, log_fast);
    Keep(next.log_slow, log_slow);
    Keep(next.weight_sharp, sharp);
    Keep(next.weight_fast, fast);
    Keep(next.weight_slow, slow);
    Keep(next.step, step);
    Keep(next.level, F(at_.step->level));
    Keep(next.shrink, F(at_.tensor->decays) * decay * step * (sharp + fast + slow));
    Keep(scratch_.growth,
         W::Fma(F(knobs_.growth), W::Exp(F(knobs_.gate_growth * kGrowthRange) * Tanh(out[3])),
                F(1.0F)));
  }

  // Stores what is the same in all lanes.
  MNEMOSYNE_DEVICE void Keep(float& target, F value) const {
    W::StoreIf(lane_ == I(0), &target, I(0), value);
  }

  const TeamModel& model_;
  const MnemosyneKnobs& knobs_;
  const float* const weights_;
  TeamScratch& scratch_;
  const MnemosyneChunkStep& at_;
  const I lane_;
  const int count_, cells_;
  const MnemosyneChoice& choice_;
};

}  // namespace mnemosyne::kernels::cuda
