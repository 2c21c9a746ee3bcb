// How a team of warps brings rows, values, sums and weights into its shared memory, split into
// parts for the tensor cores.
//
// Written in the lanes of `W` where a warp takes a row, and over the threads of `T` elsewhere; see
// warp_functions.h and flt_block.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_fragments.h"
#include "kernels/cuda/flt_numbers.h"
#include "kernels/cuda/flt_team_layout.h"

namespace mnemosyne::kernels::cuda {

// What marks a row of padding among halves of squares.
inline constexpr float kFltNoRow = -1;

// A team's memory and what it works on.
template <class Sizes>
struct FltTeamSpace {
  const FltCall& call;
  const FltPart& part;
  FltTeamLayout at;
  uint32_t* memory;

  MNEMOSYNE_DEVICE float* Floats(uint32_t place) const {
    return reinterpret_cast<float*>(memory + place);
  }
  MNEMOSYNE_DEVICE FltWords Weights() const {
    return {memory + at.weights, at.input_stride, Sizes::kFeatures * at.input_stride};
  }
  MNEMOSYNE_DEVICE FltWords X() const {
    return {memory + at.x, at.input_stride, Sizes::kRows * at.input_stride};
  }
  // [Dv, rows]
  MNEMOSYNE_DEVICE FltWords Values() const {
    return {memory + at.values, at.row_stride, Sizes::kValues * at.row_stride};
  }
  // [Dv, M]
  MNEMOSYNE_DEVICE FltWords N() const {
    return {memory + at.n, at.feature_stride, Sizes::kValues * at.feature_stride};
  }
  // [rows, M]
  MNEMOSYNE_DEVICE FltWords Keys() const {
    return {memory + at.keys, at.feature_stride, Sizes::kRows * at.feature_stride};
  }

  MNEMOSYNE_DEVICE uint32_t InputPairs() const { return (call.shape.inputs + 15) / 16 * 8; }
  MNEMOSYNE_DEVICE FltCounts& Counts() const {
    return call.counts[part.batch * call.shape.heads + part.head];
  }
  MNEMOSYNE_DEVICE bool Valid(size_t row) const {
    const FltArrays& arrays = call.arrays;
    return arrays.mask == nullptr || arrays.mask[part.batch * arrays.length + row] != 0;
  }
  MNEMOSYNE_DEVICE const float* PositionOf(size_t row) const {
    const size_t entry = call.arrays.positions_per_batch ? part.batch : 0;
    return call.arrays.positions + (entry * call.arrays.length + row) * call.shape.positions;
  }
  MNEMOSYNE_DEVICE const float* Frequencies() const {
    return call.weights.frequencies +
           static_cast<size_t>(part.head) * call.shape.positions * call.shape.wave_stride;
  }
};

// Two elements in a row, the first at an even place of an array whose elements come in pairs.
MNEMOSYNE_DEVICE void ReadPair(FltType type, const void* data, size_t at, float* low, float* high) {
  if (type == FltType::kFloat32) {
    struct alignas(8) Two {
      float x, y;
    };
    const Two two = *reinterpret_cast<const Two*>(static_cast<const float*>(data) + at);
    *low = two.x;
    *high = two.y;
    return;
  }
  const uint32_t word = *reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(data) + at);
  const auto first = static_cast<uint16_t>(word), second = static_cast<uint16_t>(word >> 16U);
  *low = type == FltType::kBFloat16 ? FromBFloat16(first) : FromFloat16(first);
  *high = type == FltType::kBFloat16 ? FromBFloat16(second) : FromFloat16(second);
}

// Two elements in the same way.
MNEMOSYNE_DEVICE void WritePair(FltType type, void* data, size_t at, float low, float high) {
  if (type == FltType::kFloat32) {
    struct alignas(8) Two {
      float x, y;
    };
    *reinterpret_cast<Two*>(static_cast<float*>(data) + at) = {low, high};
    return;
  }
  uint32_t word = 0;
  if (type == FltType::kBFloat16) {
    word = PackBFloat16(low, high);
  } else {
    word = static_cast<uint32_t>(ToFloat16(low)) | static_cast<uint32_t>(ToFloat16(high)) << 16U;
  }
  *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(data) + at) = word;
}

// Whether ReadPair and WritePair may take all rows of a tensor.
MNEMOSYNE_DEVICE bool InPairs(FltType type, const FltTensor& tensor) {
  const size_t pair = type == FltType::kFloat32 ? 8 : 4;
  return reinterpret_cast<uintptr_t>(tensor.data) % pair == 0 && tensor.batch_stride % 2 == 0 &&
         tensor.head_stride % 2 == 0 && tensor.row_stride % 2 == 0;
}

// Elements d and d + 1 of a row that starts at `at` and has `width`.
MNEMOSYNE_DEVICE void ReadTwo(FltType type, const FltTensor& tensor, bool pairs, size_t at,
                              uint32_t d, uint32_t width, float* x) {
  if (pairs && d + 1 < width) return ReadPair(type, tensor.data, at + d, &x[0], &x[1]);
  x[0] = ReadElement(type, tensor.data, at + d);
  x[1] = d + 1 < width ? ReadElement(type, tensor.data, at + d + 1) : 0.0F;
}

// Four pairs of a row of words, whose loads are under way together.
template <int kParts, typename Number>
MNEMOSYNE_DEVICE void StoreFourPairs(const FltWords& to, uint32_t row, uint32_t pair,
                                     const Number& number) {
  float x[8];
  MNEMOSYNE_UNROLL_ALL
  for (uint32_t k = 0; k < 8; ++k) x[k] = number(2 * pair + k);
  MNEMOSYNE_UNROLL_ALL
  for (uint32_t k = 0; k < 4; ++k) {
    to.template Store<kParts>(row, pair + k, x[2 * k], x[2 * k + 1]);
  }
}

// The projection and what else does not change from tile to tile, by all threads.
template <class T, class Sizes>
MNEMOSYNE_DEVICE void StageFltWeights(const FltTeamSpace<Sizes>& space) {
  const FltShape& shape = space.call.shape;
  const FltWeights& given = space.call.weights;
  const uint32_t set = given.projection_sets > 1 ? space.part.head : 0;
  const float* const w = given.weights + static_cast<size_t>(set) * shape.inputs * shape.columns;
  const auto weight = [&](uint32_t m, uint32_t e) {
    if (m >= shape.features || e >= shape.inputs) return 0.0F;
    const bool mirrored = m >= shape.projection;  // Of the hyperbolic map.
    const float number = w[e * shape.columns + (mirrored ? m - shape.projection : m)];
    return mirrored ? -number : number;
  };
  const FltWords to = space.Weights();
  T::ForEach(Sizes::kFeatures * space.InputPairs() / 4, [&](size_t index) {
    const auto i = static_cast<uint32_t>(index);
    const uint32_t m = i % Sizes::kFeatures, pair = i / Sizes::kFeatures * 4;
    StoreFourPairs<Sizes::kParts>(to, m, pair, [&](uint32_t e) { return weight(m, e); });
  });
  const float* const bias =
      given.bias == nullptr || shape.map == FeatureMapShape::kHyperbolic ? nullptr : given.bias;
  float* const biases = space.Floats(space.at.bias);
  T::ForEach(Sizes::kFeatures, [&](size_t m) {
    const float own = bias == nullptr || m >= shape.features ? 0.0F : bias[set * shape.columns + m];
    biases[m] = m < shape.features ? own : kFltNoKey;
  });
  if (shape.waves == 0) return;
  const float* origin = space.PositionOf(space.part.start);
  if (space.call.arrays.state != nullptr) {
    const size_t count = shape.SumCount() + shape.positions;
    const float* const state =
        space.call.arrays.state +
        (static_cast<size_t>(space.part.batch) * shape.heads + space.part.head) * count +
        shape.SumCount();
    if (*state > kFltNoKey) origin = state;
  }
  T::ForEach(shape.waves, [&](size_t wave) {
    space.Floats(space.at.origin)[wave] =
        TurnsAt(shape, space.Frequencies(), origin, static_cast<uint32_t>(wave));
  });
}

// Maxima and Psi, and with `n` also N, of sums in the device's memory, by all threads.
template <class T, class Sizes>
MNEMOSYNE_DEVICE void StageFltSums(const FltTeamSpace<Sizes>& space, const float* sums, bool n) {
  const FltShape& shape = space.call.shape;
  T::ForEach(Sizes::kFeatures, [&](size_t m) {
    const bool counts = m < shape.features;
    space.Floats(space.at.maxima)[m] = counts ? sums[m] : kFltNoKey;
    space.Floats(space.at.psi)[m] = counts ? sums[shape.features + m] : 0.0F;
  });
  if (!n) return;
  const float* const from = sums + 2 * shape.features;
  const auto number = [&](uint32_t m, uint32_t d) {
    return m < shape.features && d < shape.values ? from[m * shape.values + d] : 0.0F;
  };
  const FltWords to = space.N();
  T::ForEach(Sizes::kValues * Sizes::kFeatures / 8, [&](size_t index) {
    const auto i = static_cast<uint32_t>(index);
    const uint32_t d = i % Sizes::kValues, pair = i / Sizes::kValues * 4;
    StoreFourPairs<Sizes::kParts>(to, d, pair, [&](uint32_t m) { return number(m, d); });
  });
}

// The values of a tile, transposed; 0 in padding. By all threads.
template <class T, class Sizes>
MNEMOSYNE_DEVICE void StageFltValues(const FltTeamSpace<Sizes>& space, uint32_t first,
                                     uint32_t rows, bool count) {
  const FltShape& shape = space.call.shape;
  const FltTensor& tensor = space.call.arrays.v;
  const FltType type = space.call.arrays.type;
  const FltWords to = space.Values();
  const bool pairs = InPairs(type, tensor);
  constexpr uint32_t kPairs = Sizes::kRows / 2, kColumns = 8;
  // A thread takes two rows and some columns, whose loads are under way together.
  T::ForEach(kPairs * Sizes::kValues / kColumns, [&](size_t index) {
    const auto i = static_cast<uint32_t>(index);
    const uint32_t pair = i % kPairs, column = i / kPairs * kColumns;
    float x[2][kColumns] = {};
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t k = 0; k < 2; ++k) {
      const uint32_t row = 2 * pair + k;
      if (row >= rows || !space.Valid(first + row)) continue;
      const size_t at = ElementAt(tensor, space.part, first + row);
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t c = 0; c < kColumns; c += 2) {
        const uint32_t d = column + c;
        if (d < shape.values) ReadTwo(type, tensor, pairs, at, d, shape.values, &x[k][c]);
      }
    }
    uint32_t bad = 0;
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t c = 0; c < kColumns; ++c) {
      bad += (IsFinite(x[0][c]) ? 0U : 1U) + (IsFinite(x[1][c]) ? 0U : 1U);
      to.template Store<Sizes::kParts>(column + c, pair, x[0][c], x[1][c]);
    }
    if (count && bad > 0) T::Add(&space.Counts().values, bad);
  });
}

// Rows of queries or keys with their waves, and the halves of their squares. A warp takes every
// kWarps-th row, and loads some of them together.
template <class T, class W, class Sizes>
class FltRowStage {
  using F = typename W::Floats;

 public:
  MNEMOSYNE_DEVICE FltRowStage(const FltTeamSpace<Sizes>& space, bool of_keys)
      : space_(space),
        shape_(space.call.shape),
        tensor_(of_keys ? space.call.arrays.k : space.call.arrays.q),
        type_(space.call.arrays.type),
        of_keys_(of_keys) {}

  // `rows` rows from `first` on; the rest of the tile is padding.
  MNEMOSYNE_DEVICE void Stage(uint32_t warp, uint32_t first, uint32_t rows, bool count) const {
    const bool pairs = InPairs(type_, tensor_);
    for (uint32_t base = warp; base < Sizes::kRows; base += kRowsAtOnce * Sizes::kWarps) {
      F x[kRowsAtOnce][kPairs][2];
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < kRowsAtOnce; ++k) {
        const uint32_t row = base + k * Sizes::kWarps;
        Load(first + row, row < rows && space_.Valid(first + row), pairs, x[k]);
      }
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < kRowsAtOnce; ++k) {
        const uint32_t row = base + k * Sizes::kWarps;
        Store(row, row < rows && space_.Valid(first + row), count, x[k]);
      }
    }
    W::Sync();
    for (uint32_t row = warp; row < rows && shape_.waves > 0; row += Sizes::kWarps) {
      if (!space_.Valid(first + row)) continue;
      F squares(0.0F);
      for (uint32_t base = 0; base < shape_.waves; base += 32) {
        AppendWaves(row, first + row, base, squares);
      }
      squares = SumOf(squares);
      W::Each([&](auto here) {
        if (here.lane == 0) space_.Floats(space_.at.halves)[row] += 0.5F * here(squares);
      });
    }
  }

 private:
  static constexpr uint32_t kRowsAtOnce =
      Sizes::kRows / Sizes::kWarps < 8 ? Sizes::kRows / Sizes::kWarps : 8;
  static constexpr uint32_t kPairs = kFltDimMax / 64;  // Of a lane.
  static_assert(Sizes::kRows % (kRowsAtOnce * Sizes::kWarps) == 0);

  MNEMOSYNE_DEVICE void Load(size_t at_row, bool valid, bool pairs, F (&x)[kPairs][2]) const {
    const size_t at = valid ? ElementAt(tensor_, space_.part, at_row) : 0;
    W::Each([&](auto here) {
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t p = 0; p < kPairs; ++p) {
        const uint32_t d = 2 * (static_cast<uint32_t>(here.lane) + 32 * p);
        float two[2] = {0, 0};
        if (valid && d < shape_.dim) ReadTwo(type_, tensor_, pairs, at, d, shape_.dim, two);
        here(x[p][0]) = two[0];
        here(x[p][1]) = two[1];
      }
    });
  }

  static MNEMOSYNE_DEVICE F SumOf(F x) {
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 16; mask > 0; mask /= 2) x = x + W::Exchange(x, mask);
    return x;
  }

  // Stores a row that is loaded, but for its waves.
  MNEMOSYNE_DEVICE void Store(uint32_t row, bool valid, bool count, F (&x)[kPairs][2]) const {
    const FltWords to = space_.X();
    const float scale = space_.call.weights.root_scale;
    F squares(0.0F);
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      uint32_t bad = 0;
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t p = 0; p < kPairs; ++p) {
        const uint32_t pair = lane + 32 * p;
        if (2 * pair >= shape_.dim) continue;
        const float low = here(x[p][0]), high = here(x[p][1]);
        bad += (IsFinite(low) ? 0U : 1U) + (IsFinite(high) ? 0U : 1U);
        to.template Store<Sizes::kParts>(row, pair, scale * low, scale * high);
        here(squares) = fmaf(scale * low, scale * low, here(squares));
        here(squares) = fmaf(scale * high, scale * high, here(squares));
      }
      FltCounts& counts = space_.Counts();
      if (count && bad > 0) T::Add(of_keys_ ? &counts.keys : &counts.queries, bad);
      // Padding has no waves, and no row has more than its inputs.
      const uint32_t end = valid ? shape_.inputs / 2 : shape_.dim / 2;
      for (uint32_t pair = end + lane; pair < space_.InputPairs(); pair += 32) {
        to.template Store<Sizes::kParts>(row, pair, 0, 0);
      }
    });
    squares = SumOf(squares);
    W::Each([&](auto here) {
      if (here.lane != 0) return;
      space_.Floats(space_.at.halves)[row] = valid ? 0.5F * here(squares) : kFltNoRow;
    });
  }

  // 32 waves from `base` on.
  MNEMOSYNE_DEVICE void AppendWaves(uint32_t row, size_t at_row, uint32_t base, F& squares) const {
    const FltWeights& weights = space_.call.weights;
    const FltWords to = space_.X();
    const size_t head = static_cast<size_t>(space_.part.head) * shape_.wave_stride;
    const float* const a = (of_keys_ ? weights.key_a : weights.query_a) + head;
    const float* const b = (of_keys_ ? weights.key_b : weights.query_b) + head;
    F firsts(0.0F), seconds(0.0F);
    W::Each([&](auto here) {
      const uint32_t wave = base + static_cast<uint32_t>(here.lane);
      if (wave >= shape_.waves) return;
      const float turns = TurnsAt(shape_, space_.Frequencies(), space_.PositionOf(at_row), wave);
      float cosine, sine;
      CosineAndSine(DropTurns(turns - space_.Floats(space_.at.origin)[wave]), &cosine, &sine);
      const float x = fmaf(a[wave], cosine, b[wave] * sine);
      const float y = fmaf(a[wave], sine, -(b[wave] * cosine));
      here(firsts) = x;
      here(seconds) = y;
      here(squares) = fmaf(x, x, fmaf(y, y, here(squares)));
    });
    // Lanes store words of two waves: even ones of the first numbers, odd ones of the second.
    const F other_firsts = W::Exchange(firsts, 1), other_seconds = W::Exchange(seconds, 1);
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      const uint32_t wave = base + lane / 2 * 2;
      if (wave >= shape_.waves) return;
      const bool even = lane % 2 == 0;
      const uint32_t at = (shape_.dim + wave + (even ? 0 : shape_.waves)) / 2;
      to.template Store<Sizes::kParts>(row, at, even ? here(firsts) : here(other_seconds),
                                       even ? here(other_firsts) : here(seconds));
    });
  }

  const FltTeamSpace<Sizes>& space_;
  const FltShape& shape_;
  const FltTensor& tensor_;
  const FltType type_;
  const bool of_keys_;
};

}  // namespace mnemosyne::kernels::cuda
