// One chunk's step of the flagship as the program of a team of warps, for models of the shipped
// sizes. A chunk is read once and written once; between, its directions stay in registers. The
// team calls the parts of a step in the order in which they stand here, all warps a part before
// any of them the next one.
//
// Written in the lanes of `W`; see warp_functions.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/mnemosyne_decision.h"
#include "kernels/cuda/team_memory.h"

namespace mnemosyne::kernels::cuda {

// A warp of a team; `Memory` is FullMemory or HalfMemory.
template <class W, template <class> class Memory>
class TeamWarp : private WarpFunctions<W> {
  using Functions = WarpFunctions<W>;
  using F = typename W::Floats;
  using D = typename W::Doubles;
  using I = typename W::Ints;
  using B = typename W::Bools;
  using Functions::AddSquares;
  using Functions::FoldedPlace;
  using Functions::FoldTwelve;
  using Functions::Total;

 public:
  // Warp number `warp` of TeamSizes::kWarps. `before` is a copy of what the chunk has chosen so
  // far.
  MNEMOSYNE_DEVICE TeamWarp(const TeamModel& model, const float* weights, TeamScratch& scratch,
                            const MnemosyneChunkStep& at, const MnemosyneChoice& before, int warp)
      : model_(model),
        weights_(weights),
        scratch_(scratch),
        at_(at),
        slice_(static_cast<int>(at.chunk->count), warp),
        memory_(at, scratch),
        choice_(before) {}

  // Whether WriteSquares() comes before Measure().
  static constexpr bool kRounds = Memory<W>::kRounds;

  // s takes in the gradient; its greatest number to the scratch.
  MNEMOSYNE_DEVICE void WriteSquares() {
    F most(0.0F);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kCells; ++j) {
      slice_.Load(at_.values, j, sharp_[j]);
      memory_.LoadSquares(slice_, j, squares_[j]);
    }
    memory_.LoadAhead(slice_);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kCells; ++j) {
      AddGradient(j);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) most = W::Max(most, squares_[j][i]);
    }
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 16; mask > 0; mask /= 2) most = W::Max(most, W::Exchange(most, mask));
    W::StoreIf(slice_.lane() == I(0), scratch_.maxima + slice_.warp(), I(0), most);
  }

  // r1 takes in the gradient, and s if it has not. Leaves the sums of the warp's cells and the old
  // r2 in the scratch, and directions in registers.
  MNEMOSYNE_DEVICE void Measure() {
    const F floor(FloorOf(choice_));
    const F before_fast =
        F(model_.knobs.fast_weight * at_.step->fall) * W::Exp(F(choice_.log_fast));
    const F before_slow = F(model_.knobs.slow_weight) * W::Exp(F(choice_.log_slow));
    const I place = FoldedPlace();
    memory_.ChooseScale(slice_);
    MNEMOSYNE_UNROLL_ALL
    for (int first = 0; first < kCells; first += kCellsAtOnce) {
      F slows[kCellsAtOnce][4];
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < kCellsAtOnce; ++k) {
        if constexpr (!kRounds) {
          slice_.Load(at_.values, first + k, sharp_[first + k]);
          memory_.LoadSquares(slice_, first + k, squares_[first + k]);
        }
        memory_.LoadFast(slice_, first + k, smooth_[first + k]);
        memory_.LoadSlow(slice_, first + k, slows[k]);
      }
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < kCellsAtOnce; ++k) {
        const int j = first + k;
        memory_.KeepSlow(slice_, j, slows[k]);
        if constexpr (!kRounds) AddGradient(j);
        F sums[12];
        AddTerms(j, slows[k], floor, before_fast, before_slow, sums);
        const F sum = FoldTwelve(sums);
        W::StoreIf(slice_.lane() < I(16), scratch_.sums + slice_.Cell(j) * TeamScratch::kRow, place,
                   sum);
      }
    }
  }

  // The parts of what the chunk decides; most warps have a rest.
  MNEMOSYNE_DEVICE void DecideFirst() {
    if (slice_.warp() >= ChunkDecision<W>::kFirstWarps) return;
    FirstAside(model_, weights_, scratch_, at_, choice_, slice_.warp());
  }
  MNEMOSYNE_DEVICE void DecideSecond() {
    if (slice_.warp() == 0) SecondAside(model_, weights_, scratch_, at_, choice_);
  }
  MNEMOSYNE_DEVICE void DecideThird() {
    if (slice_.warp() >= ChunkDecision<W>::kThirdWarps) return;
    ThirdAside(model_, weights_, scratch_, at_, choice_, slice_.warp());
  }
  MNEMOSYNE_DEVICE void DecideLast() {
    if (slice_.warp() == 0) LastAside(model_, weights_, scratch_, at_, choice_);
  }

  // r2 takes in the direction; the update stays in registers.
  MNEMOSYNE_DEVICE void WriteMemory() {
    const Reading reading(scratch_.next, model_.knobs);
    const float growth = scratch_.growth;
    const F rate = W::Divide(F(growth), F(at_.step->age + (growth - 1.0F)));
    D sum(0.0);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kCells; ++j) {
      const F gain(scratch_.gains[slice_.Cell(j)]);
      F slows[4];
      memory_.KeptSlow(slice_, j, slows);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        sharp_[j][i] = reading.sharp_scale * sharp_[j][i];
        slows[i] = W::Fma(rate, sharp_[j][i] - slows[i], slows[i]);
      }
      memory_.PutSlow(slice_, j, slows);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        sharp_[j][i] = reading.Update(sharp_[j][i], smooth_[j][i], slows[i], gain);
      }
      AddSquares(sharp_[j], sum);
    }
    KeepPart(sum, scratch_.parts);
  }

  // Bounds the update by what all warps have found; returns its factor. WriteUpdate() may follow at
  // once.
  MNEMOSYNE_DEVICE float Bound() const {
    const double limit = static_cast<double>(at_.step->limit);
    const double most = limit * limit * static_cast<double>(slice_.count()),
                 total = TotalOf(scratch_.parts);
    return total > most ? sqrtf(static_cast<float>(most / total)) : 1.0F;
  }

  // The update, times what Bound() has returned, takes the gradient's place.
  MNEMOSYNE_DEVICE void WriteUpdate(float cap) {
    if (!(cap < 1)) {  // It is as WriteMemory() has left it, and so are its squares.
      MNEMOSYNE_UNROLL_ALL
      for (int j = 0; j < kCells; ++j) slice_.Store(at_.values, j, sharp_[j]);
      return;
    }
    D sum(0.0);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kCells; ++j) {
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) sharp_[j][i] = F(cap) * sharp_[j][i];
      AddSquares(sharp_[j], sum);
      slice_.Store(at_.values, j, sharp_[j]);
    }
    KeepPart(sum, scratch_.bounded);
  }

  // For one thread of the team alone: the sum of the update's squares, whether it was capped, and
  // the choice to the state.
  MNEMOSYNE_DEVICE void Finish(float cap, double* square_sum, uint32_t* capped) const {
    scratch_.next.floor = FloorOf(choice_);
    scratch_.next.cap = cap;
    *at_.choice = scratch_.next;
    memory_.KeepScale();
    *square_sum = TotalOf(cap < 1 ? scratch_.bounded : scratch_.parts);
    *capped = cap < 1;
  }

  // The last update once more, by all warps.
  MNEMOSYNE_DEVICE void Replay() {
    const Reading reading(choice_, model_.knobs);
    const F floor(choice_.floor), scale(at_.step->gradient_scale), cap(choice_.cap);
    D sum(0.0);
    memory_.LoadAhead(slice_);
    W::AwaitCopies();
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kCells; ++j) {
      F values[4], fasts[4], roots[4], slows[4];
      slice_.Load(at_.values, j, values);
      memory_.LoadFast(slice_, j, fasts);
      memory_.LoadRoots(slice_, j, roots);
      memory_.LoadSlow(slice_, j, slows);
      const int cell = slice_.Cell(j);
      const F gain(cell < static_cast<int>(at_.chunk->cells) ? at_.gains[cell] : 0.0F);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        const F inverse = InverseOf(roots[i], floor);
        const F sharp = reading.sharp_scale * (Clamped(values[i], scale) * inverse);
        values[i] = cap * reading.Update(sharp, fasts[i] * inverse, slows[i], gain);
      }
      AddSquares(values, sum);
      slice_.Store(at_.values, j, values);
    }
    KeepPart(sum, scratch_.bounded);
  }

  // For one thread of the team alone, after Replay().
  MNEMOSYNE_DEVICE void FinishReplay(double* square_sum, uint32_t* capped) const {
    *square_sum = TotalOf(scratch_.bounded);
    *capped = choice_.cap < 1;
  }

 private:
  static constexpr int kCells = TeamSizes::kWarpCells;  // Of this warp.
  static constexpr int kCellsAtOnce = 2;                // Whose loads are under way together.

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

  // Functions of their own, so that what they have to put aside costs their warps alone.
  static MNEMOSYNE_DEVICE_ASIDE void FirstAside(const TeamModel& model, const float* weights,
                                                TeamScratch& scratch, const MnemosyneChunkStep& at,
                                                const MnemosyneChoice& before, int warp) {
    ChunkDecision<W>(model, weights, scratch, at, before).First(warp);
  }
  static MNEMOSYNE_DEVICE_ASIDE void SecondAside(const TeamModel& model, const float* weights,
                                                 TeamScratch& scratch, const MnemosyneChunkStep& at,
                                                 const MnemosyneChoice& before) {
    ChunkDecision<W>(model, weights, scratch, at, before).Second();
  }
  static MNEMOSYNE_DEVICE_ASIDE void ThirdAside(const TeamModel& model, const float* weights,
                                                TeamScratch& scratch, const MnemosyneChunkStep& at,
                                                const MnemosyneChoice& before, int warp) {
    ChunkDecision<W>(model, weights, scratch, at, before).Third(warp);
  }
  static MNEMOSYNE_DEVICE_ASIDE void LastAside(const TeamModel& model, const float* weights,
                                               TeamScratch& scratch, const MnemosyneChunkStep& at,
                                               const MnemosyneChoice& before) {
    ChunkDecision<W>(model, weights, scratch, at, before).Last();
  }

  MNEMOSYNE_DEVICE float FloorOf(const MnemosyneChoice& choice) const {
    return model_.knobs.epsilon * sqrtf(choice.mean_square);
  }

  static MNEMOSYNE_DEVICE F Clamped(F gradient, F scale) {
    return W::Max(W::Min(scale * gradient, F(kGradientMax)), F(-kGradientMax));
  }

  // What directions are divided by is the root of s and the floor; where s is 0, nothing moves.
  static MNEMOSYNE_DEVICE F InverseOf(F root, F floor) {
    const F zero(0.0F);
    return W::Select(zero < root, W::Inverse(root + floor), zero);
  }

  // s of cell j takes in the gradient, which is clamped.
  MNEMOSYNE_DEVICE void AddGradient(int j) {
    const F scale(at_.step->gradient_scale), rate(at_.step->rate_square);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      const F g = Clamped(sharp_[j][i], scale), s = squares_[j][i];
      sharp_[j][i] = g;
      squares_[j][i] = W::Fma(g * g - s, rate, s);
    }
  }

  // The sums over the lane's coordinates of cell j; the gradient and the old r1 in sharp_ and
  // smooth_ become directions, r1 and s go to the state.
  MNEMOSYNE_DEVICE void AddTerms(int j, const F (&slows)[4], F floor, F before_fast, F before_slow,
                                 F (&sums)[12]) {
    const F rate(at_.step->rate_fast);
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < 12; ++k) sums[k] = F(0.0F);
    F fasts[4], roots[4];
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      const F old = smooth_[j][i];
      fasts[i] = W::Fma(sharp_[j][i] - old, rate, old);
    }
    memory_.PutMoments(slice_, j, fasts, squares_[j], roots);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      const F g = sharp_[j][i], old = smooth_[j][i], slow = slows[i], square = squares_[j][i];
      const F inverse = InverseOf(roots[i], floor);
      const F sharp = g * inverse, smooth = fasts[i] * inverse;
      const F previous = W::Fma(before_fast * inverse, old, before_slow * slow);
      sums[kGrad2] = W::Fma(g, g, sums[kGrad2]);
      sums[kOld2] = W::Fma(old, old, sums[kOld2]);
      sums[kSquare] = sums[kSquare] + square;
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

  // The warp's part of a sum of squares.
  MNEMOSYNE_DEVICE void KeepPart(D sum, double (&parts)[TeamSizes::kWarps]) const {
    W::StoreIf(slice_.lane() == I(0), parts + slice_.warp(), Total(sum));
  }
  static MNEMOSYNE_DEVICE double TotalOf(const double (&parts)[TeamSizes::kWarps]) {
    double total = 0;
    for (int i = 0; i < TeamSizes::kWarps; ++i) total += parts[i];
    return total;
  }

  const TeamModel& model_;
  const float* const weights_;
  TeamScratch& scratch_;
  const MnemosyneChunkStep& at_;
  const TeamSlice<W> slice_;
  Memory<W> memory_;
  const MnemosyneChoice& choice_;

  F sharp_[kCells][4], smooth_[kCells][4], squares_[kCells][4];
};

}  // namespace mnemosyne::kernels::cuda
