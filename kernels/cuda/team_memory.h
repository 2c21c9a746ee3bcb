// The memories of a chunk as the warps of a team read and write them: in 32 bits, or in 16.
//
// Written in the lanes of `W`; see warp_functions.h.
#pragma once

#include <stdint.h>

#include "kernels/cuda/half_lanes.h"
#include "kernels/cuda/mnemosyne_team_layout.h"

namespace mnemosyne::kernels::cuda {

// The coordinates of a warp: four cells, and of each four in a row for each lane. Those behind the
// chunk's end are zeros.
template <class W>
class TeamSlice {
  using F = typename W::Floats;
  using I = typename W::Ints;
  using U = typename W::Words;
  using B = typename W::Bools;

 public:
  static constexpr int kCells = TeamSizes::kWarpCells;

  MNEMOSYNE_DEVICE TeamSlice(int count, int warp)
      : lane_(W::Lane()), count_(count), full_(count == TeamSizes::kCoordinates), warp_(warp) {}

  MNEMOSYNE_DEVICE I lane() const { return lane_; }
  MNEMOSYNE_DEVICE int count() const { return count_; }
  MNEMOSYNE_DEVICE int warp() const { return warp_; }

  // Cell j of the warp is this one of the chunk.
  MNEMOSYNE_DEVICE int Cell(int j) const { return warp_ * kCells + j; }
  // The first of the lane's four coordinates of cell j.
  MNEMOSYNE_DEVICE I First(int j) const { return lane_ * 4 + Cell(j) * TeamSizes::kCell; }

  MNEMOSYNE_DEVICE void Load(const float* p, int j, F (&x)[4]) const {
    const I first = First(j);
    if (full_) {
      W::LoadStream(p, first, x);
      return;
    }
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) x[i] = W::LoadIf(first + i < I(count_), p, first + i);
  }
  MNEMOSYNE_DEVICE void Store(float* p, int j, const F (&x)[4]) const {
    const I first = First(j);
    if (full_) {
      W::StoreStream(p, first, x);
      return;
    }
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) W::StoreIf(first + i < I(count_), p, first + i, x[i]);
  }
  MNEMOSYNE_DEVICE void Load(const uint16_t* p, int j, U (&x)[4]) const {
    const I first = First(j);
    if (full_) {
      W::LoadHalves(p, first, x);
      return;
    }
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) x[i] = W::LoadHalfIf(first + i < I(count_), p, first + i);
  }
  // The same to memory that the team shares; see W::CopyHalves.
  MNEMOSYNE_DEVICE void Copy(const uint16_t* p, int j, uint16_t* to) const {
    const I first = First(j);
    if (full_) {
      W::CopyHalves(to, p, first);
      return;
    }
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      W::StoreHalfIf(B(true), to, first + i, W::LoadHalfIf(first + i < I(count_), p, first + i));
    }
  }
  MNEMOSYNE_DEVICE void Store(uint16_t* p, int j, const U (&x)[4]) const {
    const I first = First(j);
    if (full_) {
      W::StoreHalves(p, first, x);
      return;
    }
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) W::StoreHalfIf(first + i < I(count_), p, first + i, x[i]);
  }

 private:
  const I lane_;
  const int count_;
  const bool full_;
  const int warp_;
};

// r1, s and r2 in 32 bits. Put...() stores numbers, which may round them, and PutMoments() tells
// the roots of s. r2 as it was before the step, which LoadSlow() reads, is kept for KeptSlow().
template <class W>
class FullMemory {
  using F = typename W::Floats;
  using Slice = TeamSlice<W>;

 public:
  static constexpr bool kRounds = false;

  MNEMOSYNE_DEVICE FullMemory(const MnemosyneChunkStep& at, TeamScratch& scratch)
      : at_(at), scratch_(scratch) {}

  MNEMOSYNE_DEVICE void LoadFast(const Slice& slice, int j, F (&x)[4]) const {
    slice.Load(at_.fast, j, x);
  }
  MNEMOSYNE_DEVICE void LoadSquares(const Slice& slice, int j, F (&x)[4]) const {
    slice.Load(at_.square, j, x);
  }
  MNEMOSYNE_DEVICE void LoadRoots(const Slice& slice, int j, F (&x)[4]) const {
    LoadSquares(slice, j, x);
    TakeRoots(x, x);
  }
  MNEMOSYNE_DEVICE void LoadSlow(const Slice& slice, int j, F (&x)[4]) const {
    slice.Load(at_.slow, j, x);
  }
  MNEMOSYNE_DEVICE void KeepSlow(const Slice& slice, int j, const F (&x)[4]) const {
    W::StoreFour(scratch_.kept.slow, slice.First(j), x);
  }
  MNEMOSYNE_DEVICE void KeptSlow(const Slice& slice, int j, F (&x)[4]) const {
    W::LoadFour(scratch_.kept.slow, slice.First(j), x);
  }
  MNEMOSYNE_DEVICE void PutMoments(const Slice& slice, int j, const F (&fasts)[4],
                                   const F (&squares)[4], F (&roots)[4]) const {
    slice.Store(at_.square, j, squares);
    slice.Store(at_.fast, j, fasts);
    TakeRoots(squares, roots);
  }
  MNEMOSYNE_DEVICE void PutSlow(const Slice& slice, int j, F (&x)[4]) const {
    slice.Store(at_.slow, j, x);
  }
  MNEMOSYNE_DEVICE void LoadAhead(const Slice&) const {}
  MNEMOSYNE_DEVICE void ChooseScale(const Slice&) {}
  MNEMOSYNE_DEVICE void KeepScale() const {}

 private:
  static MNEMOSYNE_DEVICE void TakeRoots(const F (&x)[4], F (&roots)[4]) {
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) roots[i] = W::Root(x[i]);
  }

  const MnemosyneChunkStep& at_;
  TeamScratch& scratch_;
};

// The same in 16 bits: see half_state.h. The roots of s have a scale in common, which takes the
// greatest s of all warps in the scratch's `maxima`. r1 and r2 come while that is looked for: they
// are read after LoadAhead() and ChooseScale().
template <class W>
class HalfMemory {
  using F = typename W::Floats;
  using I = typename W::Ints;
  using U = typename W::Words;
  using Half = HalfLanes<W>;
  using Slice = TeamSlice<W>;

 public:
  static constexpr bool kRounds = true;

  MNEMOSYNE_DEVICE HalfMemory(const MnemosyneChunkStep& at, TeamScratch& scratch)
      : rounding_(*at.rounding), scratch_(scratch) {
    const float inverse = *rounding_.inverse_scale;
    inverse_scale_ = F(inverse > 0 ? inverse : 1.0F);
    scale_ = F(inverse > 0 ? 1.0F / inverse : 1.0F);
  }

  MNEMOSYNE_DEVICE void LoadAhead(const Slice& slice) const {
    MNEMOSYNE_UNROLL_ALL
    for (int j = 0; j < Slice::kCells; ++j) {
      slice.Copy(rounding_.fast, j, scratch_.kept.halves[0]);
      slice.Copy(rounding_.slow, j, scratch_.kept.halves[1]);
    }
  }
  MNEMOSYNE_DEVICE void LoadFast(const Slice& slice, int j, F (&x)[4]) const {
    LoadBrains(slice, scratch_.kept.halves[0], j, x);
  }
  MNEMOSYNE_DEVICE void LoadSlow(const Slice& slice, int j, F (&x)[4]) const {
    LoadBrains(slice, scratch_.kept.halves[1], j, x);
  }
  MNEMOSYNE_DEVICE void KeepSlow(const Slice&, int, const F (&)[4]) const {}
  MNEMOSYNE_DEVICE void KeptSlow(const Slice& slice, int j, F (&x)[4]) const {
    LoadSlow(slice, j, x);
  }
  MNEMOSYNE_DEVICE void LoadRoots(const Slice& slice, int j, F (&x)[4]) const {
    U packed[4];
    slice.Load(rounding_.roots, j, packed);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) x[i] = Half::UnpackRoot(packed[i], scale_);
  }
  MNEMOSYNE_DEVICE void LoadSquares(const Slice& slice, int j, F (&x)[4]) const {
    LoadRoots(slice, j, x);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) x[i] = x[i] * x[i];
  }

  MNEMOSYNE_DEVICE void PutSlow(const Slice& slice, int j, F (&x)[4]) const {
    U random[4];
    Half::RandomHalves(rounding_.slow_key, Position(slice, j), random);
    PutBrains(slice, rounding_.slow, j, x, random);
  }
  MNEMOSYNE_DEVICE void PutMoments(const Slice& slice, int j, F (&fasts)[4], F (&squares)[4],
                                   F (&roots)[4]) const {
    U random[4], packed[4];
    Half::RandomBits(rounding_.key, Position(slice, j), random);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      packed[i] = Half::PackHalf(W::Root(squares[i]) * inverse_scale_, random[i]);
      roots[i] = Half::UnpackRoot(packed[i], scale_);
      squares[i] = roots[i] * roots[i];
    }
    slice.Store(rounding_.roots, j, packed);
    PutBrains(slice, rounding_.fast, j, fasts, random);
  }

  // From here on squares are in the scale of this step.
  MNEMOSYNE_DEVICE void ChooseScale(const Slice& slice) {
    float most = 0;
    for (int i = 0; i < TeamSizes::kWarps; ++i) most = fmaxf(most, scratch_.maxima[i]);
    inverse_scale_ = Half::InverseRootScale(F(most));
    scale_ = W::Divide(F(1.0F), inverse_scale_);
    W::AwaitCopies();
    if (slice.warp() == 0) {
      W::StoreIf(slice.lane() == I(0), &scratch_.inverse_scale, I(0), inverse_scale_);
    }
  }
  // For one thread of the team: the scale to the state.
  MNEMOSYNE_DEVICE void KeepScale() const { *rounding_.inverse_scale = scratch_.inverse_scale; }

 private:
  // Of the lane's first coordinate of cell j: a multiple of four.
  MNEMOSYNE_DEVICE U Position(const Slice& slice, int j) const {
    return W::ToWords(slice.First(j)) + U(rounding_.first);
  }
  static MNEMOSYNE_DEVICE void LoadBrains(const Slice& slice, const uint16_t* p, int j, F (&x)[4]) {
    U packed[4];
    W::LoadSharedHalves(p, slice.First(j), packed);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) x[i] = Half::UnpackBrain(packed[i]);
  }
  static MNEMOSYNE_DEVICE void PutBrains(const Slice& slice, uint16_t* p, int j, F (&x)[4],
                                         const U (&random)[4]) {
    U packed[4];
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      x[i] = Half::RoundToBrain(x[i], random[i]);
      packed[i] = Half::PackBrain(x[i]);
    }
    slice.Store(p, j, packed);
  }

  const MnemosyneRounding& rounding_;
  TeamScratch& scratch_;
  F inverse_scale_, scale_;
};

}  // namespace mnemosyne::kernels::cuda
