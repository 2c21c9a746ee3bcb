// The checks of the flagship's ops.
#include <string_view>
#include <tuple>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/op_check.h"

namespace mnemosyne::kernels {
namespace {

absl::Status CheckSizes(const MnemosyneSizes& sizes) {
  constexpr size_t kWidth = kMnemosyneWidthMax;
  const std::tuple<std::string_view, size_t, size_t> bounds[] = {
      {"cell_size", sizes.cell_size, kMnemosyneCellMax},
      {"chunk_cells", sizes.chunk_cells, kMnemosyneChunkMax},
      {"coordinates of a chunk", sizes.cell_size * sizes.chunk_cells, kMnemosyneChunkMax},
      {"cell_width", sizes.cell_width, kWidth},
      {"key_width", sizes.key_width, kWidth},
      {"cell_hidden", sizes.cell_hidden, kWidth},
      {"token_width", sizes.token_width, 2 * kWidth},
      {"memory_heads", sizes.memory_heads, kMnemosyneHeadsMax},
      {"memory_width", sizes.memory_width, kWidth},
      {"hidden", sizes.hidden, 2 * kWidth},
      {"features of cells", sizes.cell_map.features, kWidth},
      {"features of memories", sizes.memory_map.features, kWidth},
      {"features of contexts", sizes.context_map.features, kWidth},
  };
  for (const auto& [what, size, maximum] : bounds) {
    if (size >= 1 && size <= maximum) continue;
    return InvalidArgument("wrong size: {} is {}, expected 1 to {}", what, size, maximum);
  }
  if (sizes.cell_map.inputs != sizes.key_width + sizes.positional ||
      sizes.memory_map.inputs != sizes.key_width || sizes.context_map.inputs != sizes.key_width) {
    return InvalidArgument("wrong size: the inputs of feature maps are not the keys' width");
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(const MnemosyneSizes& sizes, const MnemosyneMemory& memory) {
  if (memory.tensors.empty()) return absl::OkStatus();
  const bool has_full =
      memory.fast != nullptr && memory.square != nullptr && memory.slow != nullptr;
  const bool has_half = memory.fast_half != nullptr && memory.square_half != nullptr &&
                        memory.slow_half != nullptr && memory.inverse_root_scales != nullptr;
  const bool there = (memory.is_half() ? has_half : has_full) && memory.tokens != nullptr &&
                     memory.content != nullptr &&
                     (memory.mass != nullptr || MemoryMassCount(sizes) == 0) &&
                     memory.gains != nullptr && memory.choices != nullptr &&
                     memory.chunks != nullptr && memory.positions != nullptr &&
                     memory.context_queries != nullptr && memory.context_contents != nullptr;
  return there ? absl::OkStatus() : InvalidArgument("missing array: the memory has a null");
}

absl::Status CheckCount(std::string_view what, size_t count, size_t expected) {
  if (count == expected) return absl::OkStatus();
  return InvalidArgument("wrong size: {} has {} elements, expected {}", what, count, expected);
}

}  // namespace

absl::Status Check(const MnemosyneContextArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckSizes(args.model.sizes));
  MNEMO_RETURN_IF_ERROR(CheckMemory(args.model.sizes, args.memory));
  return CheckCount("sums", args.sums.size(), args.memory.tensors.size());
}

absl::Status Check(const MnemosyneStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckSizes(args.model.sizes));
  MNEMO_RETURN_IF_ERROR(CheckMemory(args.model.sizes, args.memory));
  const size_t count = args.parameters.size();
  MNEMO_RETURN_IF_ERROR(CheckCount("steps", args.steps.size(), count));
  MNEMO_RETURN_IF_ERROR(CheckCount("square_sums", args.square_sums.size(), count));
  MNEMO_RETURN_IF_ERROR(CheckCount("capped", args.capped.size(), count));
  MNEMO_RETURN_IF_ERROR(CheckCount("sums", args.sums.size(), args.memory.tensors.size()));
  for (size_t k = 0; k < count; ++k) {
    const size_t least = k == 0 ? 0 : args.parameters[k - 1] + 1;
    if (args.parameters[k] >= least && args.parameters[k] < args.memory.tensors.size()) continue;
    return InvalidArgument("wrong parameter: {} at position {}, expected {} to before {}",
                           args.parameters[k], k, least, args.memory.tensors.size());
  }
  if (count > 0 && args.values == nullptr) {
    return InvalidArgument("missing array: values is null");
  }
  return absl::OkStatus();
}

absl::Status Check(const MnemosyneModel& model, const MnemosyneUpdateArgs& args) {
  return Check(MnemosyneStepArgs{model, args.memory, args.parameters, args.steps, args.sums,
                                 args.values, args.square_sums, args.capped, /*replay=*/false});
}

}  // namespace mnemosyne::kernels
