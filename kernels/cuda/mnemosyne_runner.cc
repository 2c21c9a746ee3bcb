#include "kernels/cuda/mnemosyne_runner.h"

#include <algorithm>
#include <array>
#include <cstring>

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

absl::Status Grow(Backend& backend, size_t size, Buffer& pinned) {
  if (pinned.size() >= size) return absl::OkStatus();
  pinned = Buffer();
  MNEMO_ASSIGN_OR_RETURN(pinned, backend.AllocateHost(2 * size));
  return absl::OkStatus();
}

void AddBytes(const void* from, size_t size, std::vector<std::byte>& to) {
  const size_t at = to.size();
  to.resize(at + size);
  std::memcpy(to.data() + at, from, size);
}

template <typename T>
void Copy(const std::vector<T>& from, std::byte* to) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size() * sizeof(T));
}

}  // namespace

absl::Status MnemosyneRunner::Context(const MnemosyneContextArgs& args) {
  if (args.memory.tensors.empty()) return absl::OkStatus();
  const MnemosynePart part = {args.memory, {}, nullptr};
  const std::span<const MnemosynePart> all(&part, 1);
  MNEMO_ASSIGN_OR_RETURN(MnemosynePlan* const plan,
                         plans_.Get(backend_, all, ContextContentCount(args.model.sizes)));
  ClearSteps();
  MNEMO_RETURN_IF_ERROR(Run(args.model, *plan, {.context = true, .step = false, .replay = false}));
  TakeTensorSums(0, args.sums);
  return absl::OkStatus();
}

absl::Status MnemosyneRunner::Step(const MnemosyneStepArgs& args) {
  if (args.parameters.empty()) return absl::OkStatus();
  const MnemosynePart part = {args.memory, args.parameters, args.values};
  const std::span<const MnemosynePart> all(&part, 1);
  MNEMO_ASSIGN_OR_RETURN(MnemosynePlan* const plan,
                         plans_.Get(backend_, all, ContextContentCount(args.model.sizes)));
  ClearSteps();
  AddSteps(args.memory, args.parameters, args.steps);
  for (const MnemosyneTensorSums& sums : args.sums) {
    mean_squares_.push_back(static_cast<float>(sums.mean_square));
  }
  MNEMO_RETURN_IF_ERROR(
      Run(args.model, *plan, {.context = false, .step = true, .replay = args.replay}));
  TakeResults(*plan, 0, 0, args.square_sums, args.capped);
  return absl::OkStatus();
}

absl::Status MnemosyneRunner::Updates(const MnemosyneModel& model,
                                      std::span<const MnemosyneUpdateArgs> all) {
  for (const bool half : {false, true}) {
    std::vector<const MnemosyneUpdateArgs*> alike;
    for (const MnemosyneUpdateArgs& args : all) {
      if (!args.memory.tensors.empty() && args.memory.is_half() == half) alike.push_back(&args);
    }
    if (!alike.empty()) MNEMO_RETURN_IF_ERROR(UpdateAlike(model, alike));
  }
  return absl::OkStatus();
}

absl::Status MnemosyneRunner::UpdateAlike(const MnemosyneModel& model,
                                          std::span<const MnemosyneUpdateArgs* const> all) {
  std::vector<MnemosynePart> parts;
  parts.reserve(all.size());
  ClearSteps();
  for (const MnemosyneUpdateArgs* const args : all) {
    parts.push_back({args->memory, args->parameters, args->values});
    AddSteps(args->memory, args->parameters, args->steps);
  }
  MNEMO_ASSIGN_OR_RETURN(MnemosynePlan* const plan,
                         plans_.Get(backend_, std::span<const MnemosynePart>(parts),
                                    ContextContentCount(model.sizes)));
  MNEMO_RETURN_IF_ERROR(
      Run(model, *plan, {.context = true, .step = !steps_.empty(), .replay = false}));
  size_t tensor = 0, tile = 0, taking = 0;
  for (const MnemosyneUpdateArgs* const args : all) {
    TakeTensorSums(tensor, args->sums);
    tile = TakeResults(*plan, tile, taking, args->square_sums, args->capped);
    tensor += args->sums.size();
    taking += args->parameters.size();
  }
  return absl::OkStatus();
}

void MnemosyneRunner::ClearSteps() {
  steps_.clear();
  keys_.clear();
  mean_squares_.clear();
}

void MnemosyneRunner::AddSteps(const MnemosyneMemory& memory, std::span<const size_t> parameters,
                               std::span<const MnemosyneTensorStep> steps) {
  steps_.insert(steps_.end(), steps.begin(), steps.end());
  for (size_t k = 0; memory.is_half() && k < parameters.size(); ++k) {
    const auto parameter = static_cast<uint32_t>(parameters[k]);
    keys_.push_back(
        {RoundingKey(parameter, steps[k].clock, 1), RoundingKey(parameter, steps[k].clock, 2)});
  }
}

absl::Status MnemosyneRunner::Run(const MnemosyneModel& model, MnemosynePlan& plan,
                                  const Parts& parts) {
  Places in;
  const size_t steps_at = in.Take<MnemosyneTensorStep>(steps_.size());
  const size_t keys_at = in.Take<RoundingKeys>(keys_.size());
  const size_t means_at = in.Take<float>(mean_squares_.size());
  MnemosyneContextTables context = plan.context();
  MnemosyneStepTables step = plan.step();
  Places out;  // The first of the space.
  const size_t tensor_sums_at = out.Take<TensorSums>(parts.context ? context.tensor_count : 0);
  const size_t results_at = out.Take<TileResult>(parts.step ? step.tile_count : 0);
  Places places = out;
  const size_t rows_at = places.Take<float>(plan.row_count() * ContextContentCount(model.sizes));
  const size_t tile_sums_at = places.Take<TileSums>(context.tile_count);
  const size_t found_means_at = places.Take<float>(context.tensor_count);
  const size_t square_sums_at = places.Take<double>(step.tile_count * kTileChunks);
  const size_t capped_at = places.Take<uint32_t>(step.tile_count * kTileChunks);
  const unsigned scratch_blocks = kScratchBlocksPerProcessor * processors_;

  // Whoever runs out of memory does so here.
  MNEMO_RETURN_IF_ERROR(Grow(backend_, in.end(), inbox_));
  MNEMO_RETURN_IF_ERROR(Grow(backend_, out.end(), outbox_));
  MNEMO_ASSIGN_OR_RETURN(std::byte* const inbox, inbox_there_.Get(backend_, in.end()));
  MNEMO_ASSIGN_OR_RETURN(std::byte* const space, space_.Get(backend_, places.end()));
  MNEMO_ASSIGN_OR_RETURN(
      std::byte* const scratch,
      scratch_.Get(backend_, scratch_blocks * StepScratchCount(model.sizes) * sizeof(float)));
  Copy(steps_, inbox_.data() + steps_at);
  Copy(keys_, inbox_.data() + keys_at);
  Copy(mean_squares_, inbox_.data() + means_at);

  const MnemosyneContextSpace context_space = {
      .rows = reinterpret_cast<float*>(space + rows_at),
      .tile_sums = reinterpret_cast<TileSums*>(space + tile_sums_at),
      .tensor_sums = reinterpret_cast<TensorSums*>(space + tensor_sums_at),
      .mean_squares = reinterpret_cast<float*>(space + found_means_at)};
  step.steps = reinterpret_cast<const MnemosyneTensorStep*>(inbox + steps_at);
  step.keys = reinterpret_cast<const RoundingKeys*>(inbox + keys_at);
  step.mean_squares =
      parts.context ? context_space.mean_squares : reinterpret_cast<const float*>(inbox + means_at);
  const MnemosyneStepSpace step_space = {
      .square_sums = reinterpret_cast<double*>(space + square_sums_at),
      .capped = reinterpret_cast<uint32_t*>(space + capped_at),
      .results = reinterpret_cast<TileResult*>(space + results_at),
      .scratch = reinterpret_cast<float*>(scratch),
      .scratch_blocks = scratch_blocks};
  const auto queue = [&](cudaStream_t stream) {
    cudaError_t error = cudaSuccess;
    if (in.end() > 0) {
      error = cudaMemcpyAsync(inbox, inbox_.data(), in.end(), cudaMemcpyHostToDevice, stream);
    }
    if (error == cudaSuccess && parts.context) {
      error = LaunchMnemosyneContext(model, plan.states(), context, plan.level_counts().data(),
                                     plan.level_counts().size(), context_space, stream);
    }
    if (error == cudaSuccess && parts.step) {
      error = LaunchMnemosyneStep(model, plan.states(), step, step_space, parts.replay, processors_,
                                  stream);
    }
    if (error != cudaSuccess) return error;
    return cudaMemcpyAsync(outbox_.data(), space, out.end(), cudaMemcpyDeviceToHost, stream);
  };
  // What the sequence depends on beside the plan.
  const std::array<const void*, 5> places_of = {inbox_.data(), inbox, outbox_.data(), space,
                                                scratch};
  const std::array<bool, 3> does = {parts.context, parts.step, parts.replay};
  key_.clear();
  AddBytes(&model, sizeof(model), key_);
  AddBytes(places_of.data(), sizeof(places_of), key_);
  AddBytes(does.data(), sizeof(does), key_);
  MNEMO_RETURN_IF_ERROR(ToStatus(plan.graph().Run(stream_, key_, queue)));
  MNEMO_RETURN_IF_ERROR(backend_.Synchronize());
  tensor_sums_ = reinterpret_cast<const TensorSums*>(outbox_.data() + tensor_sums_at);
  results_ = reinterpret_cast<const TileResult*>(outbox_.data() + results_at);
  return absl::OkStatus();
}

void MnemosyneRunner::TakeTensorSums(size_t first_tensor,
                                     std::span<MnemosyneTensorSums> sums) const {
  for (size_t t = 0; t < sums.size(); ++t) {
    const TensorSums& said = tensor_sums_[first_tensor + t];
    sums[t] = {.mean_square = said.mean_square, .shrink = said.shrink};
  }
}

size_t MnemosyneRunner::TakeResults(const MnemosynePlan& plan, size_t tile, size_t first_taking,
                                    std::span<double> square_sums, std::span<size_t> capped) const {
  std::fill(square_sums.begin(), square_sums.end(), 0.0);
  std::fill(capped.begin(), capped.end(), size_t{0});
  const std::span<const ChunkTile> tiles = plan.taking_tiles();
  const size_t end = first_taking + square_sums.size();
  for (; tile < tiles.size() && tiles[tile].taking < end; ++tile) {
    square_sums[tiles[tile].taking - first_taking] += results_[tile].square_sum;
    capped[tiles[tile].taking - first_taking] += results_[tile].capped;
  }
  return tile;
}

}  // namespace mnemosyne::kernels::cuda
