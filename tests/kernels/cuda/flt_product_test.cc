#include "kernels/cuda/flt_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/cuda/host_lanes.h"
#include "tests/kernels/cuda/one_thread.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::kernels::cuda {
namespace {

using testing::NormalFloats;

struct Shape {
  uint32_t rows, columns, inner;
};

// Few and many parts of a product, whole ones and such that end before.
constexpr Shape kShapes[] = {{1, 1, 1}, {16, 8, 16}, {17, 9, 5}, {64, 64, 64}, {70, 33, 41}};

// Every number is stored once, and is the sum in double to float32's digits.
template <typename A, typename B>
void ExpectProduct(const Shape& s, const A& a, const B& b, const std::vector<float>& left,
                   const std::vector<float>& right) {
  std::vector<float> product(size_t{s.rows} * s.columns);
  std::vector<int> stored(product.size());
  FltProduct<OneThread, HostLanes>::Run(s.rows, s.columns, s.inner, a, b,
                                        [&](uint32_t r, uint32_t c, float sum) {
                                          product[r * s.columns + c] = sum;
                                          ++stored[r * s.columns + c];
                                        });
  for (uint32_t r = 0; r < s.rows; ++r) {
    for (uint32_t c = 0; c < s.columns; ++c) {
      double sum = 0, size = 0;
      for (uint32_t i = 0; i < s.inner; ++i) {
        const double term = static_cast<double>(left[r * s.inner + i]) *
                            static_cast<double>(right[i * s.columns + c]);
        sum += term;
        size += std::abs(term);
      }
      EXPECT_NEAR(product[r * s.columns + c], sum, 1e-6 * size);
      EXPECT_EQ(stored[r * s.columns + c], 1);
    }
  }
}

std::vector<float> Transposed(const std::vector<float>& x, size_t rows, size_t columns) {
  std::vector<float> y(x.size());
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) y[c * rows + r] = x[r * columns + c];
  }
  return y;
}

TEST(FltProductTest, IsTheSumOfProductsWhicheverWayMatricesLie) {
  for (const Shape& s : kShapes) {
    const std::vector<float> left = NormalFloats(size_t{s.rows} * s.inner, 1),
                             right = NormalFloats(size_t{s.inner} * s.columns, 2),
                             left_down = Transposed(left, s.rows, s.inner),
                             right_along = Transposed(right, s.inner, s.columns);
    const FltAlong a = {left.data(), s.inner}, b = {right_along.data(), s.inner};
    const FltDown a_down = {left_down.data(), s.rows}, b_down = {right.data(), s.columns};
    const auto a_of = [&](uint32_t r, uint32_t i) { return left[r * s.inner + i]; };
    const auto b_of = [&](uint32_t i, uint32_t c) { return right[i * s.columns + c]; };
    ExpectProduct(s, a, b, left, right);
    ExpectProduct(s, a_down, b_down, left, right);
    ExpectProduct(s, a, b_of, left, right);
    ExpectProduct(s, a_of, b_down, left, right);
    ExpectProduct(s, a_of, b_of, left, right);
  }
}

}  // namespace
}  // namespace mnemosyne::kernels::cuda
