// The checks of the ops over rows.
#include <string_view>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/op_check.h"

namespace mnemosyne::kernels {
namespace {

absl::Status CheckBound(std::string_view what, size_t size, size_t maximum) {
  if (size >= 1 && size <= maximum) return absl::OkStatus();
  return InvalidArgument("wrong size: {} is {}, expected 1 to {}", what, size, maximum);
}

absl::Status CheckThere(std::string_view what, const void* data, bool needed = true) {
  if (data != nullptr || !needed) return absl::OkStatus();
  return InvalidArgument("missing array: {} is null", what);
}

template <typename Rows>
absl::Status CheckRows(std::string_view what, const Rows& rows, size_t width, bool needed) {
  MNEMO_RETURN_IF_ERROR(CheckThere(what, rows.data, needed));
  if (!needed || rows.stride >= width) return absl::OkStatus();
  return InvalidArgument("wrong stride: rows of {} are {} apart, expected at least {}", what,
                         rows.stride, width);
}

absl::Status CheckAttention(const AttentionSizes& sizes) {
  MNEMO_RETURN_IF_ERROR(CheckBound("features", sizes.features, kFeatureCountMax));
  return CheckBound("width", sizes.width, kValueWidthMax);
}

absl::Status CheckMemory(const MemoryArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckAttention(args.sizes));
  if (args.heads < 1 || args.memories % args.heads != 0) {
    return InvalidArgument("wrong size: {} memories have {} heads, which do not divide them",
                           args.memories, args.heads);
  }
  const bool needed = args.memories > 0 && args.steps > 0;
  MNEMO_RETURN_IF_ERROR(CheckThere("discounts", args.discounts, needed));
  MNEMO_RETURN_IF_ERROR(CheckThere("phi_q", args.phi_q, needed));
  MNEMO_RETURN_IF_ERROR(CheckThere("phi_k", args.phi_k, needed));
  MNEMO_RETURN_IF_ERROR(CheckThere("values", args.values, needed));
  MNEMO_RETURN_IF_ERROR(CheckThere("content", args.content, needed));
  return CheckThere("out", args.out, needed);
}

}  // namespace

absl::Status Check(const DenseLayerArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckBound("inputs", args.sizes.inputs, kRowWidthMax));
  MNEMO_RETURN_IF_ERROR(CheckBound("outputs", args.sizes.outputs, kRowWidthMax));
  const bool needed = args.rows > 0;
  MNEMO_RETURN_IF_ERROR(CheckThere("weights", args.weights, needed));
  if (args.sizes.accumulate &&
      (args.bias != nullptr || args.sizes.activation != Activation::kNone)) {
    return InvalidArgument("a layer that accumulates has neither bias nor activation");
  }
  MNEMO_RETURN_IF_ERROR(CheckRows("x", args.x, args.sizes.inputs, needed));
  return CheckRows("y", args.y, args.sizes.outputs, needed);
}

absl::Status Check(const FeatureMapArgs& args) {
  const FeatureMapSizes& sizes = args.sizes;
  MNEMO_RETURN_IF_ERROR(CheckBound("inputs", sizes.inputs, kFeatureCountMax));
  MNEMO_RETURN_IF_ERROR(CheckBound("features", sizes.features, kFeatureCountMax));
  const bool fits =
      (sizes.shape != FeatureMapShape::kHyperbolic || sizes.features % 2 == 0) &&
      (sizes.shape != FeatureMapShape::kElu || sizes.features == sizes.inputs) &&
      (sizes.shape != FeatureMapShape::kDpfp || sizes.features % (2 * sizes.inputs) == 0);
  if (!fits) {
    return InvalidArgument("wrong size: {} features of {} inputs do not fit the map",
                           sizes.features, sizes.inputs);
  }
  const bool needed = args.rows > 0;
  MNEMO_RETURN_IF_ERROR(CheckThere("weights", args.weights, needed && ProjectionCount(sizes) > 0));
  if (args.bias != nullptr && sizes.shape != FeatureMapShape::kExponential) {
    return InvalidArgument("only an exponential map has a bias");
  }
  MNEMO_RETURN_IF_ERROR(CheckRows("x", args.x, sizes.inputs, needed));
  return CheckRows("phi", args.phi, sizes.features, needed);
}

absl::Status Check(const BidirectionalAttentionArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckAttention(args.sizes));
  if (!args.group_starts.empty() && args.group_starts[0] != 0) {
    return InvalidArgument("groups start at row {}, expected 0", args.group_starts[0]);
  }
  for (size_t i = 1; i < args.group_starts.size(); ++i) {
    if (args.group_starts[i] > args.group_starts[i - 1]) continue;
    return InvalidArgument("empty group: group {} is from row {} to before {}", i - 1,
                           args.group_starts[i - 1], args.group_starts[i]);
  }
  const bool needed = args.group_starts.size() > 1;
  MNEMO_RETURN_IF_ERROR(CheckRows("phi_q", args.phi_q, args.sizes.features, needed));
  MNEMO_RETURN_IF_ERROR(CheckRows("phi_k", args.phi_k, args.sizes.features, needed));
  MNEMO_RETURN_IF_ERROR(CheckRows("values", args.values, args.sizes.width, needed));
  return CheckRows("out", args.out, args.sizes.width, needed);
}

absl::Status Check(const AdditiveMemoryArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckMemory(args.memory));
  return CheckThere("normalizer", args.normalizer, args.memory.memories > 0);
}

absl::Status Check(const DeltaMemoryArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckMemory(args.memory));
  return CheckThere("betas", args.betas, args.memory.memories > 0);
}

}  // namespace mnemosyne::kernels
