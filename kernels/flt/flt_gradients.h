// From what a backward pass adds up over rows to the gradients of what a kernel was made of.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/flt/flt_attention.h"

namespace mnemosyne::kernels {

// Sums over all rows, of the projection W as it is multiplied with rows of inputs, of the numbers
// of waves (FltKernel::query_a and so on), and of 2 pi less frequencies.
struct FltGradientSums {
  explicit FltGradientSums(const FltKernel& kernel);

  struct OfHead {
    std::vector<double> query_a, query_b, key_a, key_b;  // [r]
    std::vector<double> frequencies;                     // [l, r]
    double constant = 0;
  };
  size_t width;                       // Of a row of weights: E, padded to 16.
  std::vector<double> weights, bias;  // [sets, P, width], [sets, P]
  std::vector<OfHead> heads;          // [H]
};

// Sets the gradients of the projection and of waves that `args` wants.
void WriteGradients(const FltBackwardArgs& args, const FltGradientSums& sums);

}  // namespace mnemosyne::kernels
