// The loops that FLT attention is made of, one set for each instruction set. Rows of matrices are
// padded to whole vectors of 16 floats: `columns` and strides are multiples of 16.
//
// A file for an instruction set includes it: C headers and plain structs only.
#pragma once

#include <stddef.h>

#include "kernels/flt/flt_sizes.h"

namespace mnemosyne::kernels::cpu {

// A matrix, row after row.
struct Matrix {
  float* data;
  size_t stride;
};

// c = a b, or c += a b. The element (row, i) of `a` is a[row * a_row + i * a_inner]: a matrix or
// its transpose. Each sum goes in the order of i.
struct MatrixProduct {
  const float* a;
  size_t a_row, a_inner;
  const float* b;  // [inner, columns]
  size_t b_stride;
  float* c;  // [rows, columns]
  size_t c_stride;
  size_t rows, inner, columns;
  bool accumulate;
};

// The waves of some positions: with t the turns xi . (r - origin),
//   first = a cos(2 pi t) + b sin(2 pi t),   second = a sin(2 pi t) - b cos(2 pi t).
struct WaveRows {
  size_t rows, waves, dimensions;
  const float* positions;    // [rows, dimensions]
  const float* origin;       // [dimensions]
  const float* frequencies;  // [dimensions, wave_stride]
  const float* a;            // [waves], padded.
  const float* b;            // [waves], padded.
  size_t wave_stride;
  float* first;   // [rows, waves]; not padded: columns after these are left alone.
  float* second;  // [rows, waves]
  size_t stride;  // Of both.
};

// Features of some rows: `logits` = x W. Exponential maps give the logarithms of their features
// without the scale, and kFltNoKey in the columns that pad; the others give features, and 0 there.
struct FeatureRows {
  FeatureMapSizes sizes;
  size_t rows;
  Matrix x;           // [rows, inputs]
  Matrix logits;      // [rows, ProjectionCount], padded; of maps that have a projection.
  const float* bias;  // [M], padded; or null.
  Matrix features;    // [rows, M], padded.
  size_t columns;     // Of features, padded.
};

struct FltTable {
  void (*multiply)(const MatrixProduct& product);
  // x <- scale x; returns how many numbers are NaN or infinite.
  size_t (*scale_and_count)(size_t rows, size_t columns, float scale, Matrix x);
  void (*waves)(const WaveRows& rows);
  void (*features)(const FeatureRows& rows);
  // maxima[c] <- max(maxima[c], x[r][c])
  void (*column_maxima)(size_t rows, size_t columns, Matrix x, float* maxima);
  // x <- exp(x - shifts[c]); 0 below exp(-87).
  void (*exponentials)(size_t rows, size_t columns, Matrix x, const float* shifts);
  // maxima[r] = max_c x + shifts, x <- exp(x + shifts[c] - maxima[r]).
  void (*row_exponentials)(size_t rows, size_t columns, Matrix x, const float* shifts,
                           float* maxima);
  // x <- x - shifts[r]
  void (*shift_rows)(size_t rows, size_t columns, Matrix x, const float* shifts);
  // sums[c] <- sums[c] + sum_r x[r][c]
  void (*column_sums)(size_t rows, size_t columns, Matrix x, float* sums);
  // dots[r] = sum_c x[r][c] y[r * y_stride + c]; y_stride 0 is the same vector for all rows.
  void (*row_dots)(size_t rows, size_t columns, Matrix x, const float* y, size_t y_stride,
                   float* dots);
  // y = factors[r] x
  void (*scale_rows)(size_t rows, size_t columns, Matrix x, const float* factors, Matrix y);
  // x <- x y, element by element; with a stride of 0 the rows of y are one.
  void (*multiply_elements)(size_t rows, size_t columns, Matrix x, Matrix y);
  // x <- x + factors[r] y, with one fused multiply-add.
  void (*add_scaled_rows)(size_t rows, size_t columns, const float* factors, Matrix y, Matrix x);
};

}  // namespace mnemosyne::kernels::cpu
