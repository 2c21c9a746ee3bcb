#include "kernels/components/projection.h"

#include <Eigen/Dense>
#include <algorithm>

namespace mnemosyne::kernels {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Below it a vector has no direction.
constexpr double kSquareMin = 1e-25;

Matrix ToMatrix(std::span<const float> numbers, size_t columns) {
  const auto width = static_cast<Eigen::Index>(columns);
  Matrix matrix(static_cast<Eigen::Index>(numbers.size() / columns), width);
  std::copy(numbers.begin(), numbers.end(), matrix.data());
  return matrix;
}

std::vector<double> ToVector(const Matrix& matrix) {
  return {matrix.data(), matrix.data() + matrix.size()};
}

}  // namespace

std::vector<double> HouseholderProduct(std::span<const float> vectors, size_t size,
                                       size_t columns) {
  const Matrix all = ToMatrix(vectors, size);
  const auto width = static_cast<Eigen::Index>(size);
  Matrix product = Matrix::Identity(width, static_cast<Eigen::Index>(columns));
  // H(u_1) ... H(u_L) on the unit vectors: the last reflection comes first.
  for (Eigen::Index i = all.rows() - 1; i >= 0; --i) {
    const double square = all.row(i).squaredNorm();
    if (square <= kSquareMin) continue;
    const Eigen::RowVectorXd along = all.row(i) * product * (2 / square);
    product -= all.row(i).transpose() * along;
  }
  return ToVector(product);
}

std::vector<float> CwyProjection(std::span<const float> vectors, std::span<const float> norms,
                                 size_t blocks, size_t size) {
  const size_t columns = std::min(size, norms.size());
  std::vector<float> projection;
  for (size_t block = 0; block < blocks; ++block) {
    const size_t count = vectors.size() / blocks;
    const std::vector<double> product =
        HouseholderProduct(vectors.subspan(block * count, count), size, columns);
    for (size_t column = 0; column < columns; ++column) {
      const size_t row = projection.size() / size;
      if (row == norms.size()) break;
      for (size_t i = 0; i < size; ++i) {
        projection.push_back(
            static_cast<float>(product[i * columns + column] * static_cast<double>(norms[row])));
      }
    }
  }
  return projection;
}

std::vector<double> OrthogonalFactor(std::span<const float> matrix, size_t size) {
  const Eigen::HouseholderQR<Matrix> qr(ToMatrix(matrix, size));
  Matrix q = qr.householderQ();
  for (Eigen::Index i = 0; i < q.cols(); ++i) {
    if (qr.matrixQR()(i, i) < 0) q.col(i) *= -1;
  }
  return ToVector(q);
}

}  // namespace mnemosyne::kernels
