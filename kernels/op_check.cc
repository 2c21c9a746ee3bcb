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

absl::Status CheckSizes(const CoordinateSizes& sizes) {
  const struct {
    std::string_view what;
    size_t size, most;
  } all[] = {{"key_width", sizes.key_width, kCoordinateWidthMax},
             {"value_width", sizes.value_width, kCoordinateWidthMax},
             {"features", sizes.map.features, kCoordinateWidthMax},
             {"heads", sizes.heads, kCoordinateHeadsMax},
             {"hidden", sizes.hidden, kCoordinateHiddenMax}};
  for (const auto& [what, size, most] : all) {
    if (size >= 1 && size <= most) continue;
    return InvalidArgument("wrong size: {} is {}, expected 1 to {}", what, size, most);
  }
  if (sizes.map.inputs == sizes.key_width) return absl::OkStatus();
  return InvalidArgument("wrong size: the map has {} inputs, expected {}", sizes.map.inputs,
                         sizes.key_width);
}

// That the shape of a segment's tensor has as many elements as the segment.
absl::Status CheckShape(const CoordinateTensor& tensor, size_t k, size_t count) {
  if (tensor.rank > kCoordinateRankMax) {
    return InvalidArgument("wrong rank: segment {} has {} axes, expected at most {}", k,
                           tensor.rank, kCoordinateRankMax);
  }
  size_t left = count;
  for (size_t axis = 0; axis < tensor.rank; ++axis) {
    const size_t length = tensor.shape[axis];
    left = length == 0 || left % length != 0 ? 0 : left / length;
  }
  if (left == 1) return absl::OkStatus();
  return InvalidArgument("wrong shape: that of segment {} does not have its {} elements", k, count);
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

absl::Status Check(const CoordinateStepArgs& args) {
  const size_t count = args.segments.size();
  MNEMO_RETURN_IF_ERROR(CheckSegments(args.segments, args.values));
  MNEMO_RETURN_IF_ERROR(CheckSizes(args.model.sizes));
  MNEMO_RETURN_IF_ERROR(CheckSize("tensors", args.tensors.size(), count));
  MNEMO_RETURN_IF_ERROR(CheckSize("square_sums", args.square_sums.size(), count));
  MNEMO_RETURN_IF_ERROR(CheckArena("update", args.update, args.segments));
  if (args.replay) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(CheckSize("told", args.told.size(), count * args.model.sizes.hidden));
  MNEMO_RETURN_IF_ERROR(CheckArena("weights", args.weights, args.segments));
  MNEMO_RETURN_IF_ERROR(CheckArena("fast", args.fast, args.segments));
  MNEMO_RETURN_IF_ERROR(CheckArena("slow", args.slow, args.segments));
  MNEMO_RETURN_IF_ERROR(CheckArena("square", args.square, args.segments));
  MNEMO_RETURN_IF_ERROR(CheckArena("log_step", args.log_step, args.segments));
  MNEMO_RETURN_IF_ERROR(CheckArena("content", args.content, args.segments));
  MNEMO_RETURN_IF_ERROR(CheckArena("mass", args.mass, args.segments));
  for (size_t k = 0; k < count; ++k) {
    MNEMO_RETURN_IF_ERROR(CheckShape(args.tensors[k], k, args.segments[k].count));
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne::kernels
