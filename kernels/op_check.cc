#include "kernels/op_check.h"

#include <cstddef>
#include <string_view>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::kernels {
namespace {

absl::Status CheckSize(std::string_view what, size_t size, size_t expected) {
  if (size == expected) return absl::OkStatus();
  return InvalidArgument("wrong size: {} has {} elements, expected {}", what, size, expected);
}

absl::Status CheckArena(std::string_view what, const void* arena,
                        std::span<const Segment> segments) {
  if (arena != nullptr || segments.empty()) return absl::OkStatus();
  return InvalidArgument("missing arena: {} is null", what);
}

// What all steps share.
template <typename Args>
absl::Status CheckStep(const Args& args) {
  MNEMO_RETURN_IF_ERROR(CheckSegments(args.segments, args.values));
  MNEMO_RETURN_IF_ERROR(CheckSize("coefficients", args.coefficients.size(), args.segments.size()));
  return CheckSize("square_sums", args.square_sums.size(), args.segments.size());
}

}  // namespace

absl::Status CheckSegments(std::span<const Segment> segments, const float* values) {
  size_t end = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& segment = segments[i];
    if (segment.count == 0) return InvalidArgument("empty segment: segment {}", i);
    if (segment.offset < end) {
      return InvalidArgument(
          "segments overlap or descend: segment {} starts at {}, expected {} or "
          "above",
          i, segment.offset, end);
    }
    if (__builtin_add_overflow(segment.offset, segment.count, &end)) {
      return InvalidArgument("segment too long: segment {} has {} elements from {}", i,
                             segment.count, segment.offset);
    }
  }
  return CheckArena("values", values, segments);
}

absl::Status Check(const GradientStatisticsArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckSegments(args.segments, args.values));
  return CheckSize("statistics", args.statistics.size(), args.segments.size());
}

absl::Status Check(const SgdStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckStep(args));
  return CheckArena("momentum", args.momentum, args.segments);
}

absl::Status Check(const AdamStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckStep(args));
  MNEMO_RETURN_IF_ERROR(CheckArena("first_moment", args.first_moment, args.segments));
  return CheckArena("second_moment", args.second_moment, args.segments);
}

absl::Status Check(const LionStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckStep(args));
  MNEMO_RETURN_IF_ERROR(CheckArena("momentum", args.momentum, args.segments));
  MNEMO_RETURN_IF_ERROR(CheckArena("signs", args.signs, args.segments));
  for (size_t i = 0; i < args.segments.size(); ++i) {
    if (args.segments[i].offset % kSignsPerWord == 0) continue;
    return InvalidArgument("misaligned segment: segment {} starts at {}, expected a multiple of {}",
                           i, args.segments[i].offset, kSignsPerWord);
  }
  return absl::OkStatus();
}

absl::Status Check(const LstmStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckStep(args));
  const LstmSizes& sizes = args.sizes;
  if (sizes.layers < 1 || sizes.layers > kLstmLayersMax || sizes.hidden < 1 ||
      sizes.hidden > kLstmHiddenMax) {
    return InvalidArgument("wrong size: {} layers of {} units, expected 1 to {} of 1 to {}",
                           sizes.layers, sizes.hidden, kLstmLayersMax, kLstmHiddenMax);
  }
  MNEMO_RETURN_IF_ERROR(CheckArena("weights", args.weights, args.segments));
  MNEMO_RETURN_IF_ERROR(CheckArena("hidden", args.hidden, args.segments));
  MNEMO_RETURN_IF_ERROR(CheckArena("cell", args.cell, args.segments));
  if (!sizes.normalized) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(CheckArena("mean", args.mean, args.segments));
  return CheckArena("square", args.square, args.segments);
}

}  // namespace mnemosyne::kernels
