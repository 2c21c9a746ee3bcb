// The way back through one side of FLT attention: from gradients of features and masks to those of
// the side's tensor, of the projection W, and of the waves of positions.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/cpu/flt_tile.h"

namespace mnemosyne::kernels::cpu {

// What a unit's gradients add up to.
struct FltUnitGradients {
  std::vector<float> weights;                          // [P', E], padded: of W.
  std::vector<float> bias;                             // [P]
  std::vector<double> query_a, query_b, key_a, key_b;  // [r]
  std::vector<double> frequencies;                     // [l, r]
  double constant = 0;
  FltFaults faults;
};

class FltInputGradients {
 public:
  // Clears `sums`; the arguments outlive this.
  FltInputGradients(const FltBackwardArgs& args, const FltTile& tile, FltScratch& scratch,
                    FltUnitGradients& sums);

  // Floats that it takes from its scratch.
  static size_t ScratchCount(const FltSizes& sizes, size_t tile_rows);

  // Gradients of a tile's features [T, M] and masks [T, F]; the caller sets them before Finish.
  const Matrix& features() const { return feature_gradient_; }
  const Matrix& masks() const { return mask_gradient_; }

  // Adds what a tile of a side gives to the sums, and writes the gradient of its tensor, unless
  // `to` has no data. Gradients of features are used up.
  void Finish(const FltSpan& span, bool of_keys, const FltSide& side, const TensorOut& to);

 private:
  void OfFeatures(const FltSpan& span, const FltSide& side);
  void OfDirectFeatures(const FltSide& side, size_t row);
  void OfWaves(const FltSpan& span, bool of_keys, Matrix gradient, size_t column);

  const FltBackwardArgs& args_;
  const FltTile& tile_;
  const FltTable& loops_;
  const FltKernel& kernel_;
  const FltSizes& sizes_;
  FltUnitGradients& sums_;
  Matrix feature_gradient_;  // [T, M]
  Matrix logit_gradient_;    // [T, P]
  Matrix input_gradient_;    // [T, E]
  Matrix mask_gradient_;     // [T, F]
  Matrix cosines_, sines_;   // [T, r]
  float* dots_;              // [T]
  float* ones_;              // [M]
};

}  // namespace mnemosyne::kernels::cpu
