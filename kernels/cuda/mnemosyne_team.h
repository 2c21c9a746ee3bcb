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

namespace mnemosyne::kernels::cuda {

// A warp of a team.
template <class W>
class TeamWarp : private WarpFunctions<W> {
  using Functions = WarpFunctions<W>;
  using F = typename W::Floats;
  using D = typename W::Doubles;
  using I = typename W::Ints;
  using B = typename W::Bools;
  using Functions::AddSquare;
  using Functions::FoldSixteen;
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
        lane_(W::Lane()),
        count_(static_cast<int>(at.chunk->count)),
        cells_(static_cast<int>(at.chunk->cells)),
        full_(count_ == TeamSizes::kCoordinates),
        warp_(warp),
        choice_(before) {}

  // s and r1 take in the gradient. Leaves the sums of the warp's cells and the old r2 in the
  // scratch, and directions in registers.
  MNEMOSYNE_DEVICE void Measure() {
    const F floor(FloorOf(choice_));
    const F before_fast =
        F(model_.knobs.fast_weight * at_.step->fall) * W::Exp(F(choice_.log_fast));
    const F before_slow = F(model_.knobs.slow_weight) * W::Exp(F(choice_.log_slow));
    MNEMOSYNE_UNROLL_ALL
    for (int first = 0; first < kCells; first += kCellsAtOnce) {
      F squares[kCellsAtOnce][4], slows[kCellsAtOnce][4];
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < kCellsAtOnce; ++k) {
        LoadFour(at_.values, first + k, sharp_[first + k]);
        LoadFour(at_.square, first + k, squares[k]);
        LoadFour(at_.fast, first + k, smooth_[first + k]);
        LoadFour(at_.slow, first + k, slows[k]);
      }
      MNEMOSYNE_UNROLL_ALL
      for (int k = 0; k < kCellsAtOnce; ++k) {
        const int j = first + k;
        W::StoreFour(scratch_.slow, First(j), slows[k]);
        F sums[16];
        AddTerms(j, squares[k], slows[k], floor, before_fast, before_slow, sums);
        const F sum = FoldSixteen(sums);
        W::StoreIf(lane_ < I(TeamScratch::kRow), scratch_.sums + Cell(j) * TeamScratch::kRow, lane_,
                   sum);
      }
    }
  }

  // For the first warp of the team alone: what the chunk decides.
  MNEMOSYNE_DEVICE void Decide() { DecideAside(model_, weights_, scratch_, at_, choice_); }

  // r2 takes in the direction; the update stays in registers.
  MNEMOSYNE_DEVICE void WriteMemory() {
    const Reading reading(scratch_.next, model_.knobs);
    const float growth = scratch_.growth;
    const F rate = W::Divide(F(growth), F(at_.step->age + (growth - 1.0F)));
    D sum(0.0);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kCells; ++j) {
      const F gain(scratch_.gains[Cell(j)]);
      F slows[4];
      W::LoadFour(scratch_.slow, First(j), slows);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        const F sharp = reading.sharp_scale * sharp_[j][i], old = slows[i];
        slows[i] = W::Fma(rate, sharp - old, old);
        sharp_[j][i] = reading.Update(sharp, smooth_[j][i], slows[i], gain);
        AddSquare(sharp_[j][i], sum);
      }
      StoreFour(at_.slow, j, slows);
    }
    KeepPart(sum);
  }

  // Bounds the update by what all warps have found; returns its factor.
  MNEMOSYNE_DEVICE float Bound() const {
    const double limit = static_cast<double>(at_.step->limit);
    const double most = limit * limit * static_cast<double>(count_), total = TotalOfParts();
    return total > most ? sqrtf(static_cast<float>(most / total)) : 1.0F;
  }

  // The update, times what Bound() has returned, takes the gradient's place.
  MNEMOSYNE_DEVICE void WriteUpdate(float cap) {
    D sum(0.0);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kCells; ++j) {
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        sharp_[j][i] = F(cap) * sharp_[j][i];
        AddSquare(sharp_[j][i], sum);
      }
      StoreFour(at_.values, j, sharp_[j]);
    }
    KeepPart(sum);
  }

  // For one thread of the team alone: the sum of the update's squares, whether it was capped, and
  // the choice to the state.
  MNEMOSYNE_DEVICE void Finish(float cap, double* square_sum, uint32_t* capped) const {
    scratch_.next.floor = FloorOf(choice_);
    scratch_.next.cap = cap;
    *at_.choice = scratch_.next;
    *square_sum = TotalOfParts();
    *capped = cap < 1;
  }

  // The last update once more, by all warps.
  MNEMOSYNE_DEVICE void Replay() {
    const Reading reading(choice_, model_.knobs);
    const F floor(choice_.floor), scale(at_.step->gradient_scale), cap(choice_.cap);
    D sum(0.0);
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < kCells; ++j) {
      F values[4], fasts[4], squares[4], slows[4];
      LoadFour(at_.values, j, values);
      LoadFour(at_.fast, j, fasts);
      LoadFour(at_.square, j, squares);
      LoadFour(at_.slow, j, slows);
      const F gain(Cell(j) < cells_ ? at_.gains[Cell(j)] : 0.0F);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        const F inverse = InverseRoot(squares[i], floor);
        const F sharp = reading.sharp_scale * (Clamped(values[i], scale) * inverse);
        values[i] = cap * reading.Update(sharp, fasts[i] * inverse, slows[i], gain);
        AddSquare(values[i], sum);
      }
      StoreFour(at_.values, j, values);
    }
    KeepPart(sum);
  }

  // For one thread of the team alone, after Replay().
  MNEMOSYNE_DEVICE void FinishReplay(double* square_sum, uint32_t* capped) const {
    *square_sum = TotalOfParts();
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

  // A function of its own, so that what it has to put aside costs the first warp alone.
  static MNEMOSYNE_DEVICE_ASIDE void DecideAside(const TeamModel& model, const float* weights,
                                                 TeamScratch& scratch, const MnemosyneChunkStep& at,
                                                 const MnemosyneChoice& before) {
    ChunkDecision<W>(model, weights, scratch, at, before).Run();
  }

  MNEMOSYNE_DEVICE int Cell(int j) const { return warp_ * kCells + j; }
  // The first of the lane's four coordinates of cell j.
  MNEMOSYNE_DEVICE I First(int j) const { return lane_ * 4 + Cell(j) * TeamSizes::kCell; }
  MNEMOSYNE_DEVICE float FloorOf(const MnemosyneChoice& choice) const {
    return model_.knobs.epsilon * sqrtf(choice.mean_square);
  }

  // The lane's coordinates of cell j; those behind the chunk's end are zeros.
  MNEMOSYNE_DEVICE void LoadFour(const float* p, int j, F (&x)[4]) const {
    const I first = First(j);
    if (full_) {
      W::LoadStream(p, first, x);
      return;
    }
    for (int i = 0; i < 4; ++i) x[i] = W::LoadIf(first + i < I(count_), p, first + i);
  }
  MNEMOSYNE_DEVICE void StoreFour(float* p, int j, const F (&x)[4]) const {
    const I first = First(j);
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

  // The sums over the lane's coordinates of cell j; the gradient and the old r1 in sharp_ and
  // smooth_ become directions, r1 and s take in the gradient.
  MNEMOSYNE_DEVICE void AddTerms(int j, F (&squares)[4], const F (&slows)[4], F floor,
                                 F before_fast, F before_slow, F (&sums)[16]) {
    const F scale(at_.step->gradient_scale), rate(at_.step->rate_fast);
    const F square_rate(at_.step->rate_square);
    MNEMOSYNE_UNROLL_ALL
    for (int k = 0; k < 16; ++k) sums[k] = F(0.0F);
    F fasts[4];
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      const F g = Clamped(sharp_[j][i], scale), old = smooth_[j][i], slow = slows[i];
      squares[i] = W::Fma(g * g - squares[i], square_rate, squares[i]);
      fasts[i] = W::Fma(g - old, rate, old);
      const F inverse = InverseRoot(squares[i], floor);
      const F sharp = g * inverse, smooth = fasts[i] * inverse;
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
    StoreFour(at_.square, j, squares);
    StoreFour(at_.fast, j, fasts);
  }

  // The warp's part of the sum of squares.
  MNEMOSYNE_DEVICE void KeepPart(D sum) const {
    W::StoreIf(lane_ == I(0), scratch_.parts + warp_, Total(sum));
  }
  MNEMOSYNE_DEVICE double TotalOfParts() const {
    double total = 0;
    for (int i = 0; i < TeamSizes::kWarps; ++i) total += scratch_.parts[i];
    return total;
  }

  const TeamModel& model_;
  const float* const weights_;
  TeamScratch& scratch_;
  const MnemosyneChunkStep& at_;
  const I lane_;
  const int count_, cells_;
  const bool full_;
  const int warp_;
  const MnemosyneChoice& choice_;

  F sharp_[kCells][4], smooth_[kCells][4];
};

}  // namespace mnemosyne::kernels::cuda
