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

// r1, s and r2 in 32 bits. Put...() stores numbers, which may round them.
template <class W>
class FullMemory {
  using F = typename W::Floats;
  using Slice = TeamSlice<W>;

 public:
  static constexpr bool kRounds = false;

  MNEMOSYNE_DEVICE FullMemory(const MnemosyneChunkStep& at, TeamScratch&) : at_(at) {}

  MNEMOSYNE_DEVICE void LoadFast(const Slice& slice, int j, F (&x)[4]) const {
    slice.Load(at_.fast, j, x);
  }
  MNEMOSYNE_DEVICE void LoadSquares(const Slice& slice, int j, F (&x)[4]) const {
    slice.Load(at_.square, j, x);
  }
  MNEMOSYNE_DEVICE void LoadSlow(const Slice& slice, int j, F (&x)[4]) const {
    slice.Load(at_.slow, j, x);
  }
  MNEMOSYNE_DEVICE void PutFast(const Slice& slice, int j, F (&x)[4]) const {
    slice.Store(at_.fast, j, x);
  }
  MNEMOSYNE_DEVICE void PutSquares(const Slice& slice, int j, F (&x)[4]) const {
    slice.Store(at_.square, j, x);
  }
  MNEMOSYNE_DEVICE void PutSlow(const Slice& slice, int j, F (&x)[4]) const {
    slice.Store(at_.slow, j, x);
  }
  MNEMOSYNE_DEVICE void ChooseScale(const Slice&) {}
  MNEMOSYNE_DEVICE void KeepScale() const {}

 private:
  const MnemosyneChunkStep& at_;
};

// The same in 16 bits: see half_state.h. The roots of s have a scale in common, which takes the
// greatest s of all warps in the scratch's `maxima`.
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

  MNEMOSYNE_DEVICE void LoadFast(const Slice& slice, int j, F (&x)[4]) const {
    LoadBrains(slice, rounding_.fast, j, x);
  }
  MNEMOSYNE_DEVICE void LoadSlow(const Slice& slice, int j, F (&x)[4]) const {
    LoadBrains(slice, rounding_.slow, j, x);
  }
  MNEMOSYNE_DEVICE void LoadSquares(const Slice& slice, int j, F (&x)[4]) const {
    U packed[4];
    slice.Load(rounding_.roots, j, packed);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) x[i] = Half::UnpackSquare(packed[i], scale_);
  }

  MNEMOSYNE_DEVICE void PutFast(const Slice& slice, int j, F (&x)[4]) const {
    PutBrains(slice, rounding_.fast, rounding_.fast_key, j, x);
  }
  MNEMOSYNE_DEVICE void PutSlow(const Slice& slice, int j, F (&x)[4]) const {
    PutBrains(slice, rounding_.slow, rounding_.slow_key, j, x);
  }
  MNEMOSYNE_DEVICE void PutSquares(const Slice& slice, int j, F (&x)[4]) const {
    U packed[4];
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      packed[i] =
          Half::PackHalf(W::Sqrt(x[i]) * inverse_scale_, Random(slice, rounding_.square_key, j, i));
      x[i] = Half::UnpackSquare(packed[i], scale_);
    }
    slice.Store(rounding_.roots, j, packed);
  }

  // From here on squares are in the scale of this step.
  MNEMOSYNE_DEVICE void ChooseScale(const Slice& slice) {
    float most = 0;
    for (int i = 0; i < TeamSizes::kWarps; ++i) most = fmaxf(most, scratch_.maxima[i]);
    inverse_scale_ = Half::InverseRootScale(F(most));
    scale_ = W::Divide(F(1.0F), inverse_scale_);
    if (slice.warp() == 0) {
      W::StoreIf(slice.lane() == I(0), &scratch_.inverse_scale, I(0), inverse_scale_);
    }
  }
  // For one thread of the team: the scale to the state.
  MNEMOSYNE_DEVICE void KeepScale() const { *rounding_.inverse_scale = scratch_.inverse_scale; }

 private:
  MNEMOSYNE_DEVICE U Random(const Slice& slice, uint32_t key, int j, int i) const {
    return Half::RandomBits(key, W::ToWords(slice.First(j) + i) + U(rounding_.first));
  }
  MNEMOSYNE_DEVICE void LoadBrains(const Slice& slice, const uint16_t* p, int j, F (&x)[4]) const {
    U packed[4];
    slice.Load(p, j, packed);
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) x[i] = Half::UnpackBrain(packed[i]);
  }
  MNEMOSYNE_DEVICE void PutBrains(const Slice& slice, uint16_t* p, uint32_t key, int j,
                                  F (&x)[4]) const {
    U packed[4];
    MNEMOSYNE_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
      x[i] = Half::RoundToBrain(x[i], Random(slice, key, j, i));
      packed[i] = Half::PackBrain(x[i]);
    }
    slice.Store(p, j, packed);
  }

  const MnemosyneRounding& rounding_;
  TeamScratch& scratch_;
  F inverse_scale_, scale_;
};

}  // namespace mnemosyne::kernels::cuda
