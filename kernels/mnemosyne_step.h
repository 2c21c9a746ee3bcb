// The ops of the flagship: what it does in a step once the host has taken in the loss.
//
// They are coarse, so that a device reads and writes a chunk once. A chunk's step depends on its
// own gradient and state, and through the context on the tokens that all chunks had before the
// step: chunks are independent of each other, and their bits do not depend on threads. Sums over
// chunks are formed in their order.
//
// metatrain's optimizers/mnemosyne/ is the specification. Pointers are to device memory unless said
// otherwise.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/mnemosyne_sizes.h"

namespace mnemosyne::kernels {

// What a session keeps for the flagship, with the layout of its arenas. Lines with an asterisk do
// not change.
struct MnemosyneMemory {
  float* fast = nullptr;    // [arena]: r1
  float* square = nullptr;  // [arena]: s
  float* slow = nullptr;    // [arena]: r2
  // In their place, in a state of 16 bits: see half_state.h.
  uint16_t* fast_half = nullptr;         // [arena]: r1, bfloat16
  uint16_t* square_half = nullptr;       // [arena]: root of s over its scale, float16
  uint16_t* slow_half = nullptr;         // [arena]: r2, bfloat16
  float* inverse_root_scales = nullptr;  // [C]
  bool is_half() const { return fast_half != nullptr; }

  float* tokens = nullptr;             // [C, W]
  float* content = nullptr;            // [C, J, M, D]
  float* mass = nullptr;               // [C, MemoryMassCount]; null where that is 0.
  float* gains = nullptr;              // [cells]: as applied in the last step.
  MnemosyneChoice* choices = nullptr;  // [C]

  std::span<const MnemosyneTensor> tensors;  // * [T], on the host.
  const MnemosyneChunk* chunks = nullptr;    // * [C]
  size_t chunk_count = 0;                    // * C
  const float* positions = nullptr;          // * [2, positional, cells] a chunk

  // Workspace: what the op on context leaves to the step after it.
  float* context_queries = nullptr;   // [C, 2, M']
  float* context_contents = nullptr;  // [T + 1, M', D + 1]: of each tensor, and of all.
};

// What is known of a parameter before a step.
struct MnemosyneTensorSums {
  double mean_square = 0;  // Of s.
  double shrink = 0;       // What this step takes off the parameter, in [0, 0.1].
};

// Level 2: a chunk learns of its tensor's other chunks and of all chunks, from the tokens of the
// step before. Also adds up what the chunks of each tensor have decided.
struct MnemosyneContextArgs {
  const MnemosyneModel& model;
  const MnemosyneMemory& memory;
  std::span<MnemosyneTensorSums> sums;  // [T], on the host.
};

// All the rest of a step: write the gradient to r1 and s; statistics of cells; level 1 among the
// cells of a chunk; its token; the memory in time; the decisions; write r2; the update, capped.
struct MnemosyneStepArgs {
  const MnemosyneModel& model;
  const MnemosyneMemory& memory;
  std::span<const size_t> parameters;          // [k]: those that take part, ascending; host.
  std::span<const MnemosyneTensorStep> steps;  // [k], host.
  std::span<const MnemosyneTensorSums> sums;   // [T], host: what MnemosyneContext said.
  float* values = nullptr;                     // [arena]: gradients in, updates out.
  std::span<double> square_sums;               // [k], host: of the updates.
  std::span<size_t> capped;                    // [k], host: chunks whose update was capped.
  bool replay = false;  // Only the update, once more, from the state after the step.
};

// Both for a state: what MnemosyneContext says is what the step is told, and is said to the caller.
struct MnemosyneUpdateArgs {
  const MnemosyneMemory& memory;
  std::span<const size_t> parameters;          // As MnemosyneStepArgs, and so on.
  std::span<const MnemosyneTensorStep> steps;  // [k], host.
  float* values = nullptr;
  std::span<MnemosyneTensorSums> sums;  // [T], host; out.
  std::span<double> square_sums;        // [k], host; out.
  std::span<size_t> capped;             // [k], host; out.
};

}  // namespace mnemosyne::kernels
