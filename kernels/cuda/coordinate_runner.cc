#include "kernels/cuda/coordinate_runner.h"

#include <algorithm>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/block.h"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {

void CoordinateRunner::List(const CoordinateStepArgs& args) {
  CutIntoBlocks(args.segments, kBlockElements, blocks_);
  first_blocks_.assign(args.segments.size() + 1, static_cast<uint32_t>(blocks_.size()));
  for (size_t b = blocks_.size(); b > 0; --b) {
    first_blocks_[blocks_[b - 1].segment] = static_cast<uint32_t>(b - 1);
  }
  places_.clear();
  axes_.clear();
  axis_blocks_.clear();
  axis_mean_count_ = 0;
  for (size_t k = 0; k < args.segments.size(); ++k) {
    const CoordinateTensor tensor = args.replay ? CoordinateTensor() : args.tensors[k];
    const auto first_axis = static_cast<uint32_t>(axes_.size());
    size_t stride = args.segments[k].count;
    for (size_t axis = 0; tensor.rank >= 2 && axis < tensor.rank; ++axis) {
      const size_t length = tensor.shape[axis];
      stride /= length;
      const size_t together = std::max<size_t>(kCoordinateRow / stride, 1);
      for (size_t first = 0; first < length; first += together) {
        axis_blocks_.push_back({static_cast<uint32_t>(axes_.size()), static_cast<uint32_t>(first),
                                static_cast<uint32_t>(std::min(together, length - first))});
      }
      axes_.push_back(
          {static_cast<uint32_t>(k), static_cast<uint32_t>(axis_mean_count_), length, stride});
      axis_mean_count_ += length;
    }
    places_.push_back(
        {args.segments[k], first_axis, static_cast<uint32_t>(axes_.size()) - first_axis});
  }
}

absl::Status CoordinateRunner::Step(const CoordinateStepArgs& args) {
  if (args.segments.empty()) return absl::OkStatus();
  List(args);
  staging_.Clear();
  const size_t blocks_at = staging_.Add(blocks_);
  const size_t first_at = staging_.Add(first_blocks_);
  const size_t tensors_at = staging_.Add(args.tensors);
  const size_t places_at = staging_.Add(places_);
  const size_t told_at = staging_.Add(args.told);
  const size_t axes_at = staging_.Add(axes_);
  const size_t axis_blocks_at = staging_.Add(axis_blocks_);
  MNEMO_RETURN_IF_ERROR(staging_.Upload(backend_));

  Places places;
  const size_t axis_means_at = places.Take<float>(axis_mean_count_);
  const size_t means_at = places.Take<float>(places_.size());
  const size_t sums_at = places.Take<double>(blocks_.size());
  MNEMO_ASSIGN_OR_RETURN(std::byte* const space, space_.Get(backend_, places.end()));
  const CoordinateTables tables = {.blocks = staging_.At<Block>(blocks_at),
                                   .first_blocks = staging_.At<uint32_t>(first_at),
                                   .tensors = staging_.At<CoordinateTensor>(tensors_at),
                                   .places = staging_.At<CoordinatePlace>(places_at),
                                   .told = staging_.At<float>(told_at),
                                   .axes = staging_.At<CoordinateAxis>(axes_at),
                                   .axis_blocks = staging_.At<CoordinateMeans>(axis_blocks_at),
                                   .axis_means = reinterpret_cast<float*>(space + axis_means_at),
                                   .means = reinterpret_cast<float*>(space + means_at),
                                   .square_sums = reinterpret_cast<double*>(space + sums_at),
                                   .block_count = blocks_.size(),
                                   .segment_count = places_.size(),
                                   .axis_block_count = axis_blocks_.size()};
  const CoordinateArrays arrays = {args.weights,  args.values, args.fast,    args.slow, args.square,
                                   args.log_step, args.update, args.content, args.mass};
  const cudaError_t error = LaunchCoordinateStep(tables, args.model, arrays, args.replay, stream_);
  if (error != cudaSuccess) return Internal("device fault: {}", cudaGetErrorString(error));
  MNEMO_ASSIGN_OR_RETURN(const std::span<const double> partial,
                         landing_.Fetch<double>(backend_, space + sums_at, blocks_.size()));
  SumBlocks(blocks_, partial, args.square_sums);
  return absl::OkStatus();
}

}  // namespace mnemosyne::kernels::cuda
