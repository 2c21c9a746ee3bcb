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

  // Tiles of keys that are operands as they are given are read while the next is copied.
  static constexpr uint32_t kTiles = kRowParts == 1 ? 2 : 1;

  static constexpr int kAnswerWarps = 4;
  // Of 16 queries of a warp.
  static constexpr int kGroups = kFull || kFeatures > 64 || kRows > 32 ? 1 : 2;

  static constexpr int kRawStride = (kFull ? 64 : 32) + 4;  // Words of a row as it is given.
  static constexpr int kStride = 32 + 4;                    // Of 64 numbers of 16 bits.
  static constexpr int kWeightStride = kInputs / 2 + 4;
};

// What is prepared of a projection and of waves for one head's keys or queries: weights, [2 parts,
// M, inputs] two a word, and biases [M].
template <class Sizes>
struct FltPrepared {
  static constexpr uint32_t kPartWords = Sizes::kFeatures * Sizes::kInputs / 2;
  static constexpr uint32_t kWords = 2 * kPartWords + Sizes::kFeatures;

  static MNEMOSYNE_DEVICE const uint32_t* Of(const FltCall& call, uint32_t head, bool of_keys) {
    return call.prepared + (static_cast<size_t>(head) * 2 + (of_keys ? 0 : 1)) * kWords;
  }
};

// In words.
struct FltQuickLayout {
  uint32_t raw;  // Tiles as they are given: keys, then values; or queries, a warp after the other.
  uint32_t x, values, waves;
  uint32_t halves, positions, frequencies, origin;
  uint32_t weights, means, lifts;
  uint32_t queries, psi;
  uint32_t end;

  // Of keys and values.
  template <class Sizes>
  static constexpr uint32_t kRawWords = 2 * Sizes::kRows* Sizes::kRawStride;

  template <class Sizes>
  static MNEMOSYNE_ANYWHERE constexpr FltQuickLayout OfKeys() {
    FltQuickLayout at = {};
    const uint32_t rows = Sizes::kRows;
    at.raw = at.Take(Sizes::kTiles * kRawWords<Sizes>);
    at.x = at.Take(Sizes::kFull ? 2 * rows * Sizes::kStride : 0);
    at.values = at.Take(Sizes::kValueParts > 1 ? Sizes::kValueParts * rows * Sizes::kStride : 0);
    at.waves = at.Take(2 * rows * Sizes::kStride);
    at.halves = at.Take(rows);
    at.positions = at.Take(2 * 3 * rows);
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
    at.x = at.Take(Sizes::kFull ? 2 * rows * Sizes::kStride : 0);
    at.values = at.Take(Sizes::kValueParts > 1 ? Sizes::kValueParts * rows * Sizes::kStride : 0);
    at.waves = at.Take(2 * rows * Sizes::kStride);
    at.halves = at.Take(rows);
    at.positions = at.Take(3 * rows);
    at.weights = at.Take(2 * Sizes::kFeatures * Sizes::kWeightStride);
    at.means = at.Take(Sizes::kFeatureParts * Sizes::kFeatures * Sizes::kStride);
    at.lifts = at.Take(Sizes::kFeatures);
    at.psi = at.Take(Sizes::kFeatures);
    at.TakeWaves(Sizes::kWaves);
    return at;
  }

 private:
  MNEMOSYNE_ANYWHERE constexpr uint32_t Take(uint32_t count) {
    const uint32_t start = end;
    end += (count + 3) / 4 * 4;
    return start;
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
