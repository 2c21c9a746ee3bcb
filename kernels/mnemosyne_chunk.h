// Where the parts of one chunk lie in the arguments of a step; for backends in host memory.
#pragma once

#include <cstddef>

#include "kernels/mnemosyne_step.h"

namespace mnemosyne::kernels {

// Chunk `c`, which is of the k-th parameter that takes part.
inline MnemosyneChunkStep ChunkStep(const MnemosyneStepArgs& args, size_t k, size_t c) {
  const MnemosyneSizes& sizes = args.model.sizes;
  const MnemosyneMemory& memory = args.memory;
  const size_t t = args.parameters[k];
  const size_t features = sizes.memory_heads * sizes.memory_map.features;
  const size_t contents = ContextContentCount(sizes);
  const MnemosyneChunk& chunk = memory.chunks[c];
  return {.chunk = &chunk,
          .tensor = &memory.tensors[t],
          .step = &args.steps[k],
          .values = args.values + chunk.offset,
          .fast = memory.fast + chunk.offset,
          .square = memory.square + chunk.offset,
          .slow = memory.slow + chunk.offset,
          .token = memory.tokens + c * sizes.token_width,
          .content = memory.content + c * features * sizes.memory_width,
          .mass = memory.mass + c * features,
          .gains = memory.gains + chunk.first_cell,
          .choice = memory.choices + c,
          .positions = memory.positions + 2 * chunk.first_cell * sizes.positional,
          .tensor_mean_square = static_cast<float>(args.sums[t].mean_square),
          .context_query = memory.context_queries + 2 * c * sizes.context_map.features,
          .context_contents = memory.context_contents + t * contents,
          .context_all = memory.context_contents + memory.tensors.size() * contents};
}

}  // namespace mnemosyne::kernels
