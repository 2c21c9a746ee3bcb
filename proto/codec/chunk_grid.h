// The chunk grid: how parameters are cut into cells for the wire.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace mnemosyne::codec {

// Elements of a cell that make a payload of 1 MiB in float32.
inline constexpr size_t kDefaultCellElements = size_t{1} << 18;

// Cuts each parameter into cells of `cell_elements` elements; the last one holds what is left.
// Cells are numbered through all parameters, for bitmaps and tables. Immutable; any thread.
class ChunkGrid {
 public:
  struct Cell {
    size_t start;  // In elements of the parameter.
    size_t count;  // In elements; at least 1.
  };

  // `element_counts` are those of the parameters, each at least 1.
  ChunkGrid(std::span<const size_t> element_counts, size_t cell_elements);

  size_t cell_elements() const { return cell_elements_; }
  size_t parameter_count() const { return element_counts_.size(); }
  size_t cell_count() const { return first_cell_.back(); }

  // Cells of a parameter.
  size_t CellsOf(size_t parameter) const {
    return first_cell_[parameter + 1] - first_cell_[parameter];
  }

  // The number, among all cells, of cell `cell` of `parameter`.
  size_t Index(size_t parameter, size_t cell) const { return first_cell_[parameter] + cell; }

  Cell At(size_t parameter, size_t cell) const;

 private:
  size_t cell_elements_;
  std::vector<size_t> element_counts_;
  std::vector<size_t> first_cell_;  // [parameters + 1]
};

}  // namespace mnemosyne::codec
