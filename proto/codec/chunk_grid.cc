#include "proto/codec/chunk_grid.h"

#include <algorithm>

namespace mnemosyne::codec {

ChunkGrid::ChunkGrid(std::span<const size_t> element_counts, size_t cell_elements)
    : cell_elements_(cell_elements), element_counts_(element_counts.begin(), element_counts.end()) {
  first_cell_.reserve(element_counts_.size() + 1);
  first_cell_.push_back(0);
  for (const size_t count : element_counts_) {
    first_cell_.push_back(first_cell_.back() + (count + cell_elements - 1) / cell_elements);
  }
}

ChunkGrid::Cell ChunkGrid::At(size_t parameter, size_t cell) const {
  const size_t start = cell * cell_elements_;
  return {start, std::min(cell_elements_, element_counts_[parameter] - start)};
}

}  // namespace mnemosyne::codec
