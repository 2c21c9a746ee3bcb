#include "kernels/cuda/mnemosyne_runner.h"

#include <algorithm>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/cuda/launchers.h"
#include "kernels/half_state.h"

namespace mnemosyne::kernels::cuda {
namespace {

constexpr unsigned kScratchBlocksPerProcessor = 4;

absl::Status ToStatus(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return Internal("device fault: {}", cudaGetErrorString(error));
}

MnemosyneArrays ArraysOf(const MnemosyneMemory& memory, float* values) {
  return {.values = values,
          .fast = memory.fast,
          .square = memory.square,
          .slow = memory.slow,
          .fast_half = memory.fast_half,
          .square_half = memory.square_half,
          .slow_half = memory.slow_half,
          .inverse_root_scales = memory.inverse_root_scales,
          .tokens = memory.tokens,
          .content = memory.content,
          .mass = memory.mass,
          .gains = memory.gains,
          .choices = memory.choices,
          .chunks = memory.chunks,
          .positions = memory.positions,
          .context_queries = memory.context_queries,
          .context_contents = memory.context_contents,
          .tensor_count = memory.tensors.size()};
}

}  // namespace

void MnemosyneRunner::AddTiles(const MnemosyneMemory& memory, size_t tensor, size_t taking) {
  const MnemosyneTensor& t = memory.tensors[tensor];
  for (size_t first = 0; first < t.chunk_count; first += kTileChunks) {
    tiles_.push_back({.first_chunk = static_cast<uint32_t>(t.first_chunk + first),
                      .count = static_cast<uint32_t>(std::min(kTileChunks, t.chunk_count - first)),
                      .tensor = static_cast<uint32_t>(tensor),
                      .taking = static_cast<uint32_t>(taking)});
  }
}

absl::Status MnemosyneRunner::Context(const MnemosyneContextArgs& args) {
  const MnemosyneMemory& memory = args.memory;
  const size_t tensors = memory.tensors.size();
  if (tensors == 0) return absl::OkStatus();
  tiles_.clear();
  first_tiles_.clear();
  for (size_t t = 0; t < tensors; ++t) {
    first_tiles_.push_back(static_cast<uint32_t>(tiles_.size()));
    AddTiles(memory, t, t);
  }
  first_tiles_.push_back(static_cast<uint32_t>(tiles_.size()));
  all_tiles_.Clear();
  const size_t tiles_at = all_tiles_.Add(tiles_);
  const size_t first_at = all_tiles_.Add(first_tiles_);
  MNEMO_RETURN_IF_ERROR(all_tiles_.Upload(backend_));

  const size_t size = ContextContentCount(args.model.sizes);
  Places places;
  const size_t parts_at = places.Take<float>(2 * tiles_.size() * size);
  const size_t rows_at = places.Take<float>(ContextRowCount(tiles_.size()) * size);
  const size_t sums_at = places.Take<TileSums>(tiles_.size());
  MNEMO_ASSIGN_OR_RETURN(std::byte* const space, space_.Get(backend_, places.end()));
  MNEMO_RETURN_IF_ERROR(ToStatus(LaunchMnemosyneContext(
      args.model, ArraysOf(memory, nullptr), all_tiles_.At<ChunkTile>(tiles_at), tiles_.size(),
      all_tiles_.At<uint32_t>(first_at), reinterpret_cast<float*>(space + parts_at),
      reinterpret_cast<float*>(space + rows_at), reinterpret_cast<TileSums*>(space + sums_at),
      stream_)));
  MNEMO_ASSIGN_OR_RETURN(const std::span<const TileSums> tile_sums,
                         landing_.Fetch<TileSums>(backend_, space + sums_at, tiles_.size()));
  for (size_t t = 0; t < tensors; ++t) {
    MnemosyneTensorSums sums;
    for (size_t tile = first_tiles_[t]; tile < first_tiles_[t + 1]; ++tile) {
      sums.mean_square += tile_sums[tile].mean_square;
      sums.shrink += tile_sums[tile].shrink;
    }
    sums.mean_square /= static_cast<double>(memory.tensors[t].count);
    sums.shrink =
        std::min(sums.shrink / static_cast<double>(memory.tensors[t].chunk_count), kShrinkMax);
    args.sums[t] = sums;
  }
  return absl::OkStatus();
}

absl::Status MnemosyneRunner::Step(const MnemosyneStepArgs& args) {
  const MnemosyneMemory& memory = args.memory;
  if (args.parameters.empty()) return absl::OkStatus();
  tiles_.clear();
  for (size_t k = 0; k < args.parameters.size(); ++k) AddTiles(memory, args.parameters[k], k);
  mean_squares_.clear();
  for (const MnemosyneTensorSums& sums : args.sums) {
    mean_squares_.push_back(static_cast<float>(sums.mean_square));
  }
  keys_.clear();
  for (size_t k = 0; memory.is_half() && k < args.parameters.size(); ++k) {
    const auto parameter = static_cast<uint32_t>(args.parameters[k]);
    const uint64_t clock = args.steps[k].clock;
    keys_.push_back({RoundingKey(parameter, clock, 1), RoundingKey(parameter, clock, 2),
                     RoundingKey(parameter, clock, 3)});
  }
  // What seldom changes from step to step goes by itself.
  taking_tiles_.Clear();
  const size_t tiles_at = taking_tiles_.Add(tiles_);
  const size_t tensors_at = taking_tiles_.Add(memory.tensors);
  MNEMO_RETURN_IF_ERROR(taking_tiles_.Upload(backend_));
  staging_.Clear();
  const size_t steps_at = staging_.Add(args.steps);
  const size_t means_at = staging_.Add(mean_squares_);
  const size_t keys_at = staging_.Add(keys_);
  MNEMO_RETURN_IF_ERROR(staging_.Upload(backend_));
  const MnemosyneStepTables on_device = {.tiles = taking_tiles_.At<ChunkTile>(tiles_at),
                                         .tensors = taking_tiles_.At<MnemosyneTensor>(tensors_at),
                                         .steps = staging_.At<MnemosyneTensorStep>(steps_at),
                                         .mean_squares = staging_.At<float>(means_at),
                                         .keys = staging_.At<RoundingKeys>(keys_at),
                                         .tile_count = tiles_.size()};

  const unsigned scratch_blocks = kScratchBlocksPerProcessor * processors_;
  Places places;
  const size_t sums_at = places.Take<double>(tiles_.size() * kTileChunks);
  const size_t capped_at = places.Take<uint32_t>(tiles_.size() * kTileChunks);
  const size_t results_at = places.Take<TileResult>(tiles_.size());
  MNEMO_ASSIGN_OR_RETURN(std::byte* const space, space_.Get(backend_, places.end()));
  MNEMO_ASSIGN_OR_RETURN(
      std::byte* const scratch,
      scratch_.Get(backend_, scratch_blocks * StepScratchCount(args.model.sizes) * sizeof(float)));
  const MnemosyneStepSpace step_space = {
      .square_sums = reinterpret_cast<double*>(space + sums_at),
      .capped = reinterpret_cast<uint32_t*>(space + capped_at),
      .results = reinterpret_cast<TileResult*>(space + results_at),
      .scratch = reinterpret_cast<float*>(scratch),
      .scratch_blocks = scratch_blocks};
  MNEMO_RETURN_IF_ERROR(
      ToStatus(LaunchMnemosyneStep(args.model, ArraysOf(memory, args.values), on_device, step_space,
                                   args.replay, processors_, stream_)));
  MNEMO_ASSIGN_OR_RETURN(const std::span<const TileResult> results,
                         landing_.Fetch<TileResult>(backend_, space + results_at, tiles_.size()));
  std::fill(args.square_sums.begin(), args.square_sums.end(), 0.0);
  std::fill(args.capped.begin(), args.capped.end(), size_t{0});
  for (size_t tile = 0; tile < tiles_.size(); ++tile) {
    args.square_sums[tiles_[tile].taking] += results[tile].square_sum;
    args.capped[tiles_[tile].taking] += results[tile].capped;
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne::kernels::cuda
