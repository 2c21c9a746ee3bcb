// Products of the flagship's maps, formed once when its weights are read.
#pragma once

#include <cstddef>

#include "kernels/mnemosyne_sizes.h"

namespace mnemosyne::kernels {

// Floats that FoldMaps writes.
size_t FoldedCount(const MnemosyneSizes& sizes);

// Writes the products of the model's maps, formed in float64, to `target` and points the model's
// folds to them. Host memory.
void FoldMaps(MnemosyneModel& model, float* target);

}  // namespace mnemosyne::kernels
