// Which problems of FLT attention a team of warps takes, and where things lie in its shared memory.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <type_traits>

#include "kernels/cuda/flt_fragments.h"
#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

// Sizes that a program of a team is compiled for: M and Dv are padded to these with zeros. A warp
// has 16 features. Of queries, four warps have 16 each; a second four has the other half of the
// columns of their values.
template <int kFeatureCount, int kValueCount, int kPartCount>
struct FltTeamSizes {
  static constexpr int kFeatures = kFeatureCount, kValues = kValueCount, kParts = kPartCount;
  static constexpr int kWarps = kFeatures / 16, kRowWarps = 4, kGroups = kWarps / kRowWarps;
  static constexpr int kRows = 16 * kRowWarps;  // Of a tile.
  static_assert(kWarps == kGroups * kRowWarps && kValues % (8 * kGroups) == 0);
};

// What a team does, on which its memory depends.
enum class FltTask : uint8_t { kAddKeys, kAnswerAll, kAnswerCausal };

// In words.
struct FltTeamLayout {
  uint32_t weights, x, values, n, keys;  // Matrices in parts.
  uint32_t halves, psi, maxima, bias, base, origin, ends;
  uint32_t input_stride, feature_stride, row_stride;
  uint32_t end;

  template <class Sizes>
  static MNEMOSYNE_ANYWHERE FltTeamLayout Of(const FltShape& shape, FltTask task) {
    return Of<Sizes>(shape.inputs, shape.waves, task);
  }
  template <class Sizes>
  static MNEMOSYNE_ANYWHERE constexpr FltTeamLayout Of(uint32_t inputs, uint32_t waves,
                                                       FltTask task) {
    FltTeamLayout at = {};
    const uint32_t rows = Sizes::kRows, features = Sizes::kFeatures, values = Sizes::kValues;
    const uint32_t parts = Sizes::kParts;
    at.input_stride = (inputs + 15) / 16 * 8 + 4;
    at.feature_stride = features / 2 + 4;
    at.row_stride = rows / 2 + 4;
    at.weights = at.Take(parts * features * at.input_stride);
    at.x = at.Take(parts * rows * at.input_stride);
    at.values = at.Take(task == FltTask::kAnswerAll ? 0 : parts * values * at.row_stride);
    at.n = at.Take(task == FltTask::kAddKeys ? 0 : parts * values * at.feature_stride);
    at.keys = at.Take(task == FltTask::kAnswerCausal ? parts * rows * at.feature_stride : 0);
    at.halves = at.Take(rows);
    at.psi = at.Take(features);
    at.maxima = at.Take(features);
    at.bias = at.Take(features);
    at.base = at.Take(features);
    at.origin = at.Take(waves);
    at.ends = at.Take(Sizes::kWarps);
    return at;
  }

 private:
  MNEMOSYNE_ANYWHERE constexpr uint32_t Take(uint32_t count) {
    const uint32_t start = end;
    end += (count + 3) / 4 * 4;
    return start;
  }
};

// Words of shared memory that a team may have: what Hopper gives, less some.
inline constexpr uint32_t kFltTeamWordsMax = 56 * 1024;

// Calls run(sizes) with the sizes of the team that takes a task, and returns true; false if none
// does, and the program of flt_block.h has to. Teams take exponential maps without a multiplicative
// mask.
template <FltTask kTask, typename Run>
bool WithFltTeam(const FltCall& call, const Run& run) {
  const FltShape& shape = call.shape;
  if (!shape.exponential() || shape.masks > 1 || shape.features > 128 || shape.values > 128 ||
      shape.dim % 2 != 0 || shape.waves % 2 != 0) {
    return false;
  }
  const auto with = [&](auto sizes) {
    using Sizes = decltype(sizes);
    // What fits with no sizes of inputs is not even compiled.
    if constexpr (FltTeamLayout::Of<Sizes>(16, 0, kTask).end <= kFltTeamWordsMax) {
      if (FltTeamLayout::Of<Sizes>(shape, kTask).end > kFltTeamWordsMax) return false;
      run(sizes);
      return true;
    } else {
      return false;
    }
  };
  const auto with_parts = [&](auto parts) {
    constexpr int kParts = decltype(parts)::value;
    if (shape.values <= 64) {
      return shape.features <= 64 ? with(FltTeamSizes<64, 64, kParts>())
                                  : with(FltTeamSizes<128, 64, kParts>());
    }
    return shape.features <= 64 ? with(FltTeamSizes<64, 128, kParts>())
                                : with(FltTeamSizes<128, 128, kParts>());
  };
  // Tensors of 16 bits have fewer digits than two parts keep.
  if (call.arrays.type == FltType::kFloat32) return with_parts(std::integral_constant<int, 3>());
  return with_parts(std::integral_constant<int, 2>());
}

}  // namespace mnemosyne::kernels::cuda
