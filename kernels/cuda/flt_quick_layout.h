// Which problems the quick program of FLT attention takes, and where things lie in its shared
// memory. It takes exponential maps with a mask in the exponent or none, of up to 128 features (64
// if causal), and up to 64 numbers of a query, 64 of a value, and 32 waves.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <type_traits>

#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

// Sizes that the program is compiled for: D, Dv, r and M are padded to these with zeros. Tiles of
// keys have 32 rows, or 64 where queries come with them.
template <FltType kNumbers, int kFeatureCount, int kTileRows = 32>
struct FltQuickSizes {
  static constexpr FltType kType = kNumbers;
  static constexpr int kFeatures = kFeatureCount, kDim = 64, kValues = 64, kWaves = 32;
  static constexpr int kInputs = kDim + 2 * kWaves;
  static constexpr int kWarps = kFeatures / 16;  // Over keys: a warp has 16 features.
  static constexpr int kRows = kTileRows;

  // All digits are to be kept: large and small products of a sum, and sums of many, are formed
  // apart, because units round toward zero.
  static constexpr bool kFull = kType == FltType::kFloat32;
  // Products of queries and keys with the projection are those of float16, or of bfloat16.
  static constexpr bool kHalf = kType != FltType::kBFloat16;
  // Parts that a number is split into; those of queries and keys are their own type, or float16,
  // all others bfloat16.
  static constexpr int kRowParts = kFull ? 2 : 1, kFeatureParts = kFull ? 3 : 2;
  static constexpr int kValueParts = kFull ? 3 : kType == FltType::kFloat16 ? 2 : 1;
  static constexpr int kSumParts = kFeatureParts, kWaveParts = 2;

  // Whether rows come with numbers of their own, as those of the backward pass do.
  static constexpr bool kNumbered = false;

  // Tiles of keys that are operands as they are given are read while the next is staged and the one
  // after that is copied: places of tiles as they are given, and of what is staged of them.
  static constexpr uint32_t kTiles = kRowParts == 1 ? 3 : 1, kSlots = kRowParts == 1 ? 2 : 1;

  static constexpr int kAnswerWarps = 4;
  // Of 16 queries of a warp.
  static constexpr int kGroups = kFull || kFeatures > 64 || kRows > 32 ? 1 : 2;

  static constexpr int kRawStride = (kFull ? 64 : 32) + 4;  // Words of a row as it is given.
  static constexpr int kStride = 32 + 4;                    // Of 64 numbers of 16 bits.
  static constexpr int kWeightStride = kInputs / 2 + 4;
};

// The same for the backward pass, whose gradients keep 8 bits of bfloat16 factors and 16 of others.
template <FltType kNumbers, int kTileRows>
struct FltQuickBackSizes : FltQuickSizes<kNumbers, 64, kTileRows> {
  using Base = FltQuickSizes<kNumbers, 64, kTileRows>;
  static constexpr bool kNumbered = true;
  static constexpr int kGradientParts = kNumbers == FltType::kBFloat16 ? 1 : 2;
  static constexpr int kValueParts = Base::kFull ? 3 : kGradientParts;
  static constexpr int kFeatureParts = kValueParts, kSumParts = 2, kWaveParts = kGradientParts;
  static constexpr int kGroups = 1;
  static constexpr int kReaderWarps = Base::kFull ? 8 : 16;
};

// What is prepared of a projection and of waves for one head's keys or queries: weights, [2 parts,
// M, inputs] two a word, and biases [M].
template <class Sizes>
struct FltPrepared {
  static constexpr uint32_t kPartWords = Sizes::kFeatures * Sizes::kInputs / 2;
  static constexpr uint32_t kWords = 2 * kPartWords + Sizes::kFeatures;

  static MNEMOSYNE_DEVICE const uint32_t* Of(const FltCall& call, uint32_t head, bool of_keys) {
    return call.prepared + Place(head, of_keys != call.mirrored);
  }
  static MNEMOSYNE_DEVICE size_t Place(uint32_t head, bool of_keys) {
    return (static_cast<size_t>(head) * 2 + (of_keys ? 0 : 1)) * kWords;
  }

  // Of the backward pass, after those of all heads: the projection of a head as it is given, but
  // for the scale of queries and keys, [2 parts of bfloat16, M, inputs], two a word. The first 64
  // inputs are in the order of FltQuickColumn.
  static constexpr uint32_t kBackWords = 2 * kPartWords;
  static MNEMOSYNE_DEVICE uint32_t* OfBack(const FltCall& call, uint32_t head) {
    return call.prepared + static_cast<size_t>(call.shape.heads) * 2 * kWords +
           static_cast<size_t>(head) * kBackWords;
  }
};

// The column of 64 at place `i` of a row: of 32 columns, those that a lane of a result has in four
// tiles stand side by side in the output.
MNEMOSYNE_DEVICE constexpr uint32_t FltQuickColumn(uint32_t i) {
  const uint32_t tile = i / 8 % 4, lane = i % 8 / 2;
  return i / 32 * 32 + 8 * lane + 2 * tile + i % 2;
}

// In words.
struct FltQuickLayout {
  uint32_t raw;  // Tiles as they are given: keys, then values; or queries, a warp after the other.
  uint32_t x, values, waves;
  uint32_t halves, positions, frequencies, origin;
  uint32_t weights, means, lifts;
  uint32_t queries, psi;
  // Of the backward pass: numbers of rows, values of readers, the projection, numbers of the
  // readers' waves [2, waves], and sums of their gradients [warps, kWaveSums, waves].
  uint32_t row_weights, reader_values, back, amplitudes, wave_sums;
  uint32_t bases;  // Of groups: see FltTileWaves.
  uint32_t end;

  // For each wave, the gradients of both of its numbers, and of its frequencies.
  static constexpr uint32_t kWaveSums = 5;

  // Of keys and values.
  template <class Sizes>
  static constexpr uint32_t kRawWords = 2 * Sizes::kRows* Sizes::kRawStride;

  template <class Sizes>
  static MNEMOSYNE_ANYWHERE constexpr FltQuickLayout OfKeys() {
    FltQuickLayout at = {};
    at.raw = at.Take(Sizes::kTiles * kRawWords<Sizes>);
    at.TakeTiles<Sizes>(Sizes::kSlots, Sizes::kTiles == 1 ? 2 : Sizes::kTiles);
    at.TakeWaves(Sizes::kWaves);
    return at;
  }
  template <class Sizes>
  static MNEMOSYNE_ANYWHERE constexpr FltQuickLayout OfQueries() {
    FltQuickLayout at = {};
    at.raw = at.Take(Sizes::kAnswerWarps * Sizes::kGroups * 16 * Sizes::kRawStride);
    at.weights = at.Take(2 * Sizes::kFeatures * Sizes::kWeightStride);
    at.means = at.Take(Sizes::kFeatureParts * Sizes::kFeatures * Sizes::kStride);
    at.lifts = at.Take(Sizes::kFeatures);
    at.TakeWaves(Sizes::kWaves);
    return at;
  }
  // Features of keys take the place of queries and keys when those are not needed any more.
  template <class Sizes>
  static MNEMOSYNE_ANYWHERE constexpr FltQuickLayout OfCausal() {
    FltQuickLayout at = {};
    const uint32_t rows = Sizes::kRows;
    static_assert(Sizes::kFeatureParts * Sizes::kFeatures * Sizes::kStride <=
                  2 * Sizes::kRows * Sizes::kRawStride);
    at.queries = at.Take(rows * Sizes::kRawStride);
    at.raw = at.Take(kRawWords<Sizes>);
    at.TakeTiles<Sizes>(1, 1);
    at.weights = at.Take(2 * Sizes::kFeatures * Sizes::kWeightStride);
    at.means = at.Take(Sizes::kFeatureParts * Sizes::kFeatures * Sizes::kStride);
    at.lifts = at.Take(Sizes::kFeatures);
    at.psi = at.Take(Sizes::kFeatures);
    at.TakeWaves(Sizes::kWaves);
    return at;
  }

  // Of groups of warps, see flt_group_sizes.h: all begin with what has to begin at multiples of
  // 1,024 bytes.
  template <class Sizes>
  static MNEMOSYNE_ANYWHERE constexpr FltQuickLayout OfGroupKeys() {
    FltQuickLayout at = {};
    if (Sizes::kFull) {
      at.raw = at.Take(2 * Sizes::kRawWords);
      at.x = at.Take(Sizes::kRowParts * Sizes::kTileWords);
      at.values = at.Take(Sizes::kValueParts * Sizes::kTileWords);
      at.waves = at.Take(2 * Sizes::kTileWords);
    } else {
      at.raw = at.Take(2 * 2 * Sizes::kRawWords);
      at.waves = at.Take(2 * 2 * Sizes::kTileWords);
    }
    at.halves = at.Take(Sizes::kRows);
    at.TakeGroupWaves<Sizes>();
    return at;
  }
  template <class Sizes>
  static MNEMOSYNE_ANYWHERE constexpr FltQuickLayout OfGroupQueries() {
    FltQuickLayout at = {};
    at.raw = at.Take(2 * Sizes::kRawWords);
    at.weights = at.Take(2 * 2 * Sizes::kTileWords);
    at.means = at.Take(Sizes::kFeatureParts * Sizes::kTileWords);
    at.lifts = at.Take(Sizes::kFeatures);
    at.TakeGroupWaves<Sizes>();
    return at;
  }

  template <class Sizes>
  static MNEMOSYNE_ANYWHERE constexpr FltQuickLayout OfGroupCausal() {
    FltQuickLayout at = {};
    at.raw = at.Take(2 * Sizes::kTileWords);
    at.queries = at.Take(Sizes::kTileWords);
    at.waves = at.Take(2 * Sizes::kTileWords);
    at.weights = at.Take(2 * 2 * Sizes::kTileWords);
    at.means = at.Take(2 * Sizes::kTileWords);
    at.x = at.Take(2 * Sizes::kTileWords);  // Features of keys.
    at.halves = at.Take(Sizes::kRows);
    at.lifts = at.Take(Sizes::kFeatures);
    at.psi = at.Take(Sizes::kFeatures);
    at.TakeGroupWaves<Sizes>();
    return at;
  }

  // Of the backward pass, see flt_quick_reader.h: warps that take 16 rows each.
  template <class Sizes>
  static MNEMOSYNE_ANYWHERE constexpr FltQuickLayout OfReaders() {
    FltQuickLayout at = {};
    at.queries = at.Take(Sizes::kReaderWarps * 16 * Sizes::kRawStride);
    at.reader_values = at.Take(Sizes::kReaderWarps * 16 * Sizes::kRawStride);
    at.means = at.Take(Sizes::kSumParts * Sizes::kFeatures * Sizes::kStride);
    at.TakeReading<Sizes>(Sizes::kReaderWarps);
    return at;
  }
  // Of its causal form. Features take the place of readers and of those they read, and sums that of
  // the readers' values.
  template <class Sizes>
  static MNEMOSYNE_ANYWHERE constexpr FltQuickLayout OfBackCausal() {
    FltQuickLayout at = {};
    const uint32_t rows = Sizes::kRows;
    static_assert(Sizes::kFeatureParts * Sizes::kFeatures * Sizes::kStride <=
                  (Sizes::kValueParts == 1 ? 1 : 2) * Sizes::kRows * Sizes::kRawStride);
    static_assert(Sizes::kRows * Sizes::kRawStride <=
                  Sizes::kSumParts * Sizes::kFeatures * Sizes::kStride);
    at.queries = at.Take(rows * Sizes::kRawStride);
    at.raw = at.Take(kRawWords<Sizes>);
    at.TakeTiles<Sizes>(1, 1);
    at.means = at.Take(Sizes::kSumParts * Sizes::kFeatures * Sizes::kStride);
    at.reader_values = at.means;
    at.TakeReading<Sizes>(Sizes::kWarps);
    return at;
  }

  // Numbers of a tile in each slot, the same for `x` and `values`.
  template <class Sizes>
  static constexpr uint32_t kXWords = Sizes::kFull ? 2 * Sizes::kRows* Sizes::kStride : 0;
  template <class Sizes>
  static constexpr uint32_t kValueWords =
      Sizes::kValueParts > 1 ? Sizes::kValueParts* Sizes::kRows* Sizes::kStride : 0;
  template <class Sizes>
  static constexpr uint32_t kWaveWords = Sizes::kWaveParts* Sizes::kRows* Sizes::kStride;

 private:
  // What is staged of tiles, in so many slots, and their positions.
  template <class Sizes>
  MNEMOSYNE_ANYWHERE constexpr void TakeTiles(uint32_t slots, uint32_t tiles) {
    x = Take(slots * kXWords<Sizes>);
    values = Take(slots * kValueWords<Sizes>);
    waves = Take(slots * kWaveWords<Sizes>);
    halves = Take(slots * Sizes::kRows);
    row_weights = Take(Sizes::kNumbered ? slots * Sizes::kRows : 0);
    positions = Take(tiles * 3 * Sizes::kRows);
  }
  template <class Sizes>
  MNEMOSYNE_ANYWHERE constexpr void TakeReading(uint32_t warps) {
    weights = Take(2 * Sizes::kFeatures * Sizes::kWeightStride);
    back = Take(Sizes::kGradientParts * Sizes::kFeatures * Sizes::kWeightStride);
    lifts = Take(Sizes::kFeatures);
    psi = Take(Sizes::kFeatures);
    amplitudes = Take(2 * Sizes::kWaves);
    wave_sums = Take(warps * kWaveSums * Sizes::kWaves);
    TakeWaves(Sizes::kWaves);
  }
  MNEMOSYNE_ANYWHERE constexpr uint32_t Take(uint32_t count) {
    const uint32_t start = end;
    end += (count + 3) / 4 * 4;
    return start;
  }
  template <class Sizes>
  MNEMOSYNE_ANYWHERE constexpr void TakeGroupWaves() {
    TakeWaves(Sizes::kWaves);
    bases = Take(Sizes::kBaseWords);
  }
  MNEMOSYNE_ANYWHERE constexpr void TakeWaves(uint32_t count) {
    frequencies = Take(3 * count);
    origin = Take(count);
  }
};

// Calls run(sizes) with the sizes that the quick program has for a call, and returns true; false
// if it does not take it.
template <typename Run>
bool WithFltQuick(const FltCall& call, const Run& run) {
  const FltShape& shape = call.shape;
  const uint32_t features_max = call.arrays.causal ? 64 : 128;
  if (!call.quick || !shape.exponential() || shape.masks > 1 || shape.features > features_max ||
      shape.values > 64 || shape.dim > 64 || shape.waves > 32) {
    return false;
  }
  const auto with = [&](auto type) {
    constexpr FltType kType = decltype(type)::value;
    if (shape.features <= 64) {
      run(FltQuickSizes<kType, 64>());
    } else {
      run(FltQuickSizes<kType, 128>());
    }
    return true;
  };
  switch (call.arrays.type) {
    case FltType::kFloat32:
      return with(std::integral_constant<FltType, FltType::kFloat32>());
    case FltType::kBFloat16:
      return with(std::integral_constant<FltType, FltType::kBFloat16>());
    case FltType::kFloat16:
      return with(std::integral_constant<FltType, FltType::kFloat16>());
  }
  return false;
}

// The same for the backward pass, of up to 64 features.
template <typename Run>
bool WithFltQuickBack(const FltCall& call, const Run& run) {
  if (call.shape.features > 64) return false;
  return WithFltQuick(
      call, [&](auto sizes) { run(std::integral_constant<FltType, decltype(sizes)::kType>()); });
}

// The same for the answers to queries that read the sum over all keys: warps with 32 queries would
// leave others of a short part without any.
template <typename Run>
bool WithFltQuickAnswer(const FltCall& call, const Run& run) {
  return WithFltQuick(call, [&](auto sizes) {
    using Sizes = decltype(sizes);
    if constexpr (Sizes::kGroups > 1) {
      if (call.part_rows <= 16 * Sizes::kAnswerWarps) {
        run(FltQuickSizes<Sizes::kType, Sizes::kFeatures, 64>());
        return;
      }
    }
    run(sizes);
  });
}

}  // namespace mnemosyne::kernels::cuda
