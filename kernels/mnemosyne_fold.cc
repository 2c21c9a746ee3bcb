#include "kernels/mnemosyne_fold.h"

#include <algorithm>
#include <vector>

namespace mnemosyne::kernels {
namespace {

size_t DenseCount(size_t inputs, size_t outputs) { return (inputs + 1) * PaddedColumns(outputs); }

// Rows of float64 numbers without padding.
struct Matrix {
  size_t rows, columns;
  std::vector<double> numbers;

  Matrix(size_t row_count, size_t column_count)
      : rows(row_count), columns(column_count), numbers(row_count * column_count) {}
  double& At(size_t row, size_t column) { return numbers[row * columns + column]; }
  double At(size_t row, size_t column) const { return numbers[row * columns + column]; }
};

// Columns from `first` on of a map's rows; the row after the last one is the bias.
Matrix Read(const DenseWeights& map, size_t inputs, size_t outputs, size_t first, size_t columns) {
  Matrix matrix(inputs + 1, columns);
  for (size_t i = 0; i <= inputs; ++i) {
    const float* const row = i < inputs ? map.w + i * PaddedColumns(outputs) : map.b;
    for (size_t k = 0; k < columns; ++k) matrix.At(i, k) = static_cast<double>(row[first + k]);
  }
  return matrix;
}

// The products of all rows of `first` with the first rows of `second`.
Matrix Multiply(const Matrix& first, const Matrix& second) {
  Matrix product(first.rows, second.columns);
  for (size_t i = 0; i < first.rows; ++i) {
    for (size_t j = 0; j < first.columns; ++j) {
      for (size_t k = 0; k < second.columns; ++k) {
        product.At(i, k) += first.At(i, j) * second.At(j, k);
      }
    }
  }
  return product;
}

// Puts a map with its bias as last row where `target` points to, and moves that on.
DenseWeights Put(const Matrix& map, float*& target) {
  const size_t stride = PaddedColumns(map.columns);
  const float* const start = target;
  std::fill_n(target, map.rows * stride, 0.0F);
  for (size_t i = 0; i < map.rows; ++i, target += stride) {
    for (size_t k = 0; k < map.columns; ++k) target[k] = static_cast<float>(map.At(i, k));
  }
  return {start, start + (map.rows - 1) * stride};
}

// A map of (t + contract(h), others) as one of (t, h, others): `count` are in t, the map's bias is
// its last row.
Matrix Absorb(const Matrix& map, size_t count, const Matrix& contract) {
  const Matrix product = Multiply(contract, map);
  const size_t hidden = contract.rows - 1;
  Matrix joined(map.rows + hidden, map.columns);
  for (size_t k = 0; k < map.columns; ++k) {
    for (size_t i = 0; i < count; ++i) joined.At(i, k) = map.At(i, k);
    for (size_t i = 0; i < hidden; ++i) joined.At(count + i, k) = product.At(i, k);
    for (size_t i = count; i < map.rows; ++i) joined.At(hidden + i, k) = map.At(i, k);
    joined.At(joined.rows - 1, k) += product.At(hidden, k);
  }
  return joined;
}

}  // namespace

size_t FoldedCount(const MnemosyneSizes& sizes) {
  const size_t both = sizes.cell_width + sizes.cell_hidden;
  return DenseCount(sizes.cell_width, sizes.cell_width) + DenseCount(both, 1) +
         DenseCount(both + kChunkFeatureCount, sizes.token_width);
}

void FoldMaps(MnemosyneModel& model, float* target) {
  const MnemosyneSizes& sizes = model.sizes;
  const size_t width = sizes.cell_width, hidden = sizes.cell_hidden, key = sizes.key_width;
  MnemosyneWeights& weights = model.weights;
  const Matrix values = Read(weights.cell_heads, width, 2 * key + width, 2 * key, width);
  const Matrix merge = Read(weights.merge, width, width, 0, width);
  const Matrix contract = Read(weights.contract, hidden, width, 0, width);
  const Matrix gain = Read(weights.gain, width, 1, 0, 1);
  const size_t inputs = width + kChunkFeatureCount;
  const Matrix pool = Read(weights.pool, inputs, sizes.token_width, 0, sizes.token_width);
  weights.folds.cell_values = Put(Multiply(values, merge), target);
  weights.folds.cell_gain = Put(Absorb(gain, width, contract), target);
  weights.folds.pool = Put(Absorb(pool, width, contract), target);
}

}  // namespace mnemosyne::kernels
