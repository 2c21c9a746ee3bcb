// The blocks of work of an update rule's step, or of measuring gradients, over the arenas of one
// state or of several: a table that is built and sent once for as long as the same states step.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/staging.h"
#include "kernels/gradient_statistics.h"
#include "kernels/optimizer_steps.h"

namespace mnemosyne::kernels::cuda {

// Where the arenas of a state lie; null where the op has none.
struct StepArenas {
  float* values;
  float* first;
  float* second;
  uint32_t* signs;
  bool operator==(const StepArenas&) const = default;

  static StepArenas Of(const GradientStatisticsArgs& args) {
    return {const_cast<float*>(args.values), nullptr, nullptr, nullptr};
  }
  static StepArenas Of(const SgdStepArgs& args) {
    return {args.values, args.momentum, nullptr, nullptr};
  }
  static StepArenas Of(const AdamStepArgs& args) {
    return {args.values, args.first_moment, args.second_moment, nullptr};
  }
  static StepArenas Of(const LionStepArgs& args) {
    return {args.values, args.momentum, nullptr, args.signs};
  }
};

// Blocks of one step; segments are counted over all states.
class StepBlocks {
 public:
  // Whether they are those of `all`.
  template <typename Args>
  bool AreOf(const std::span<const Args>& all) const {
    if (arenas_.size() != all.size()) return false;
    size_t next = 0;
    for (size_t k = 0; k < all.size(); ++k) {
      if (arenas_[k] != StepArenas::Of(all[k]) || counts_[k] != all[k].segments.size())
        return false;
      for (const Segment& segment : all[k].segments) {
        const Segment& known = segments_[next++];
        if (known.offset != segment.offset || known.count != segment.count) return false;
      }
    }
    return true;
  }

  // Errors as Staging::Upload.
  template <typename Args>
  absl::Status Make(Backend& backend, const std::span<const Args>& all) {
    Clear();
    for (const Args& args : all) {
      const StepArenas arenas = StepArenas::Of(args);
      for (const Segment& segment : args.segments) Cut(arenas, segment);
      arenas_.push_back(arenas);
      counts_.push_back(args.segments.size());
    }
    staging_.Clear();
    place_ = staging_.Add(blocks_);
    const absl::Status sent = staging_.Upload(backend);
    if (!sent.ok()) Clear();
    return sent;
  }

  std::span<const StepBlock> blocks() const { return blocks_; }
  const StepBlock* on_device() const { return staging_.At<StepBlock>(place_); }

 private:
  void Clear() {
    arenas_.clear();
    counts_.clear();
    segments_.clear();
    blocks_.clear();
  }

  void Cut(const StepArenas& arenas, const Segment& segment) {
    const auto at = [&](auto* arena, size_t place) { return arena ? arena + place : nullptr; };
    for (size_t start = 0; start < segment.count; start += kBlockElements) {
      const size_t from = segment.offset + start;
      blocks_.push_back(
          {.values = arenas.values + from,
           .first = at(arenas.first, from),
           .second = at(arenas.second, from),
           .signs = at(arenas.signs, from / kSignsPerWord),
           .segment = static_cast<uint32_t>(segments_.size()),
           .count = static_cast<uint32_t>(std::min(kBlockElements, segment.count - start))});
    }
    segments_.push_back(segment);
  }

  std::vector<StepArenas> arenas_;  // Of each state.
  std::vector<size_t> counts_;      // Its segments.
  std::vector<Segment> segments_;   // Of all.
  std::vector<StepBlock> blocks_;
  Staging staging_;
  size_t place_ = 0;
};

}  // namespace mnemosyne::kernels::cuda
