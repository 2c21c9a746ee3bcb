// How a session's parameters are cut into cells and chunks, and what is known of each from its
// shape.
//
// metatrain's layout.py is the specification: a parameter is flattened, cut into cells of
// coordinates in a row, and its cells are shared out over chunks so that they differ by at most one
// cell.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "kernels/mnemosyne_sizes.h"
#include "optim/mnemosyne/mnemosyne_weights.h"
#include "optim/parameter_spec.h"

namespace mnemosyne::optim {

// Inputs that a parameter sums into one output, and outputs that one input feeds; both 1 for
// biases, gains and scalars.
struct Fans {
  double in = 1;
  double out = 1;
};

// From what the client told; without that, the geometric mean of rows and columns for both where
// there are two axes or more.
Fans FansOf(const ParameterSpec& parameter);

// Cells and chunks of a parameter of `elements` elements, at least 1.
struct ChunkCounts {
  size_t cells;
  size_t chunks;
};
ChunkCounts CountChunks(const kernels::MnemosyneSizes& sizes, size_t elements);

// Immutable; any thread.
class ChunkLayout {
 public:
  ChunkLayout(const ParameterLayout& layout, const kernels::MnemosyneSizes& sizes,
              const HostKnobs& knobs);

  static constexpr size_t kShapeFeatureCount = 4;

  std::span<const kernels::MnemosyneTensor> tensors() const { return tensors_; }  // [T]
  std::span<const kernels::MnemosyneChunk> chunks() const { return chunks_; }     // [C]
  std::span<const Fans> fans() const { return fans_; }                            // [T]

  // Logs of fan-in, fan-out and size, and whether there are two axes or more.
  const std::array<float, kShapeFeatureCount>& shape_features(size_t tensor) const {
    return shape_features_[tensor];
  }

  // Cells of all tensors, and of one.
  size_t cell_count() const { return cell_count_; }
  size_t cell_count(size_t tensor) const;

  // (row, column) of the middle of each cell, in [0, 1]: [cells, 2].
  std::vector<float> CellPositions() const;

 private:
  const size_t cell_size_;
  std::vector<size_t> columns_;  // [T]: length of a row.
  std::vector<kernels::MnemosyneTensor> tensors_;
  std::vector<kernels::MnemosyneChunk> chunks_;
  std::vector<Fans> fans_;
  std::vector<std::array<float, kShapeFeatureCount>> shape_features_;
  size_t cell_count_ = 0;
};

}  // namespace mnemosyne::optim
