// The flagship's sizes, knobs and weights, from a model's config and tensors into the order of the
// ops.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/components/spectrum.h"
#include "kernels/mnemosyne_sizes.h"
#include "optim/model.h"

namespace mnemosyne::optim {

// Numbers of the weights' file that the host uses; metatrain's config.py describes them.
struct HostKnobs {
  float eta_vector = 0;
  float eta_matrix = 0;
  float width_exponent = 0;
  float warmup = 0;
  float fast_power = 0;
  float age_limit = 1;
  float gate_guard = 1;
  float guard_cap = 0;
  float guard_margin = 0;
  float guard_release = 0;
  float guard_recovery = 0;
};

// Immutable after ReadMnemosyneWeights.
struct MnemosyneWeights {
  kernels::MnemosyneModel model;  // Its pointers are into `packed`.
  HostKnobs knobs;
  double decay_fast = 0;        // Adam's beta1
  double decay_square = 0;      // Adam's beta2
  kernels::Spectrum positions;  // Of the mask over (row, column) of cells.
  std::vector<float> packed;

  // The model with its weights at `data`, a copy of `packed`.
  kernels::MnemosyneModel At(const float* data) const;
};

// Reads the config and all tensors of a model of kind `mnemosyne`. InvalidArgument names what does
// not fit, or what this build does not serve: a context of the same step.
absl::StatusOr<MnemosyneWeights> ReadMnemosyneWeights(const Model& model);

}  // namespace mnemosyne::optim
