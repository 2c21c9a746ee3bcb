#include "optim/mnemosyne/chunk_layout.h"

#include <algorithm>
#include <cmath>

#include "optim/mnemosyne/conditions.h"

namespace mnemosyne::optim {
namespace {

size_t DivideUp(size_t a, size_t b) { return a / b + (a % b == 0 ? 0 : 1); }

// The axis of a layer's outputs, given that of its inputs: PyTorch stores [out, in, ...], JAX
// [..., in, out].
size_t OutputAxis(size_t rank, size_t input_axis) {
  if (input_axis == 1) return 0;
  if (input_axis == 0) return 1;
  return input_axis + 1 < rank ? rank - 1 : rank - 2;
}

}  // namespace

Fans FansOf(const ParameterSpec& parameter) {
  const auto product = static_cast<double>(*ElementCount(parameter.shape));
  const size_t rank = parameter.shape.size();
  Fans fans;
  if (parameter.role == "embedding") {
    fans.out = rank > 0 ? static_cast<double>(parameter.shape.back()) : 1;
  } else if (rank > 1 && parameter.fan_in_axis.has_value()) {
    const auto input_axis = static_cast<size_t>(*parameter.fan_in_axis);
    fans.out = static_cast<double>(parameter.shape[OutputAxis(rank, input_axis)]);
    fans.in = product / fans.out;
  } else if (rank > 1) {
    fans.in = fans.out = std::sqrt(product);
  }
  if (parameter.fan_in.has_value()) fans.in = static_cast<double>(*parameter.fan_in);
  if (parameter.fan_out.has_value()) fans.out = static_cast<double>(*parameter.fan_out);
  return fans;
}

ChunkCounts CountChunks(const kernels::MnemosyneSizes& sizes, size_t elements) {
  const size_t cells = DivideUp(elements, sizes.cell_size);
  return {cells, DivideUp(cells, sizes.chunk_cells)};
}

ChunkLayout::ChunkLayout(const ParameterLayout& layout, const kernels::MnemosyneSizes& sizes,
                         const HostKnobs& knobs)
    : cell_size_(sizes.cell_size) {
  for (size_t t = 0; t < layout.runs().size(); ++t) {
    const ParameterLayout::Run& run = layout.runs()[t];
    const ParameterSpec& parameter = layout.parameters()[t];
    const auto [cells, chunks] = CountChunks(sizes, run.count);
    const Fans fans = FansOf(parameter);
    const StepPrior prior = {knobs.eta_vector, knobs.eta_matrix, knobs.width_exponent};
    const size_t rank = parameter.shape.size();
    tensors_.push_back({.first_chunk = chunks_.size(),
                        .chunk_count = chunks,
                        .count = run.count,
                        .prior_step = static_cast<float>(PriorStepSize(prior, fans.in)),
                        .decays = fans.in > 1 ? 1.0F : 0.0F});
    fans_.push_back(fans);
    shape_features_.push_back(ShapeFeatures(parameter, fans));
    columns_.push_back(rank > 1 ? static_cast<size_t>(parameter.shape.back()) : run.count);

    const size_t larger = cells % chunks == 0 ? chunks : cells % chunks;
    size_t first_cell = 0;
    for (size_t c = 0; c < chunks; ++c) {
      const size_t chunk_cells = DivideUp(cells, chunks) - (c < larger ? 0 : 1);
      const size_t start = first_cell * cell_size_;
      const size_t count = std::min(chunk_cells * cell_size_, run.count - start);
      chunks_.push_back({.offset = run.offset + start,
                         .first_cell = cell_count_ + first_cell,
                         .count = static_cast<uint32_t>(count),
                         .cells = static_cast<uint32_t>(chunk_cells)});
      first_cell += chunk_cells;
    }
    cell_count_ += cells;
  }
}

size_t ChunkLayout::cell_count(size_t tensor) const {
  return DivideUp(tensors_[tensor].count, cell_size_);
}

std::vector<float> ChunkLayout::CellPositions() const {
  std::vector<float> positions;
  positions.reserve(2 * cell_count_);
  for (size_t t = 0; t < tensors_.size(); ++t) {
    const size_t count = tensors_[t].count, columns = columns_[t];
    const auto rows = static_cast<double>(std::max<size_t>(count / columns, 1));
    const auto width = static_cast<double>(columns);
    for (size_t cell = 0; cell < cell_count(t); ++cell) {
      const double middle =
          std::min((static_cast<double>(cell) + 0.5) * static_cast<double>(cell_size_),
                   static_cast<double>(count) - 0.5);
      positions.push_back(static_cast<float>(std::floor(middle / width) / rows));
      positions.push_back(static_cast<float>(std::fmod(middle, width) / width));
    }
  }
  return positions;
}

}  // namespace mnemosyne::optim
