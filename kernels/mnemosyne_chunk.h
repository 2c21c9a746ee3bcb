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
          .fast = memory.is_half() ? nullptr : memory.fast + chunk.offset,
          .square = memory.is_half() ? nullptr : memory.square + chunk.offset,
          .slow = memory.is_half() ? nullptr : memory.slow + chunk.offset,
          .token = memory.tokens + c * sizes.token_width,
          .content = memory.content + c * features * sizes.memory_width,
          .mass = memory.mass == nullptr ? nullptr : memory.mass + c * MemoryMassCount(sizes),
          .gains = memory.gains + chunk.first_cell,
          .choice = memory.choices + c,
          .positions = memory.positions + 2 * chunk.first_cell * sizes.positional,
          .tensor_mean_square = static_cast<float>(args.sums[t].mean_square),
          .context_query = memory.context_queries + 2 * c * sizes.context_map.features,
          .context_contents = memory.context_contents + t * contents,
          .context_all = memory.context_contents + memory.tensors.size() * contents};
}

// How chunk `c` of the k-th parameter that takes part is rounded, in a state of 16 bits.
inline MnemosyneRounding RoundingOf(const MnemosyneStepArgs& args, size_t k, size_t c) {
  const MnemosyneMemory& memory = args.memory;
  const size_t offset = memory.chunks[c].offset;
  const auto parameter = static_cast<uint32_t>(args.parameters[k]);
  const uint64_t clock = args.steps[k].clock;
  const MnemosyneChunk& first = memory.chunks[memory.tensors[parameter].first_chunk];
  return {.key = RoundingKey(parameter, clock, 1),
          .slow_key = RoundingKey(parameter, clock, 2),
          .first = static_cast<uint32_t>(offset - first.offset),
          .fast = memory.fast_half + offset,
          .slow = memory.slow_half + offset,
          .roots = memory.square_half + offset,
          .inverse_scale = memory.inverse_root_scales + c};
}

// A chunk of a state of 16 bits at work: its memories in float32.
class HalfChunk {
 public:
  // Points `step`, chunk `c` of the k-th parameter that takes part, to memories that are unpacked
  // to `floats` [3, count].
  HalfChunk(const MnemosyneStepArgs& args, size_t k, size_t c, float* floats,
            MnemosyneChunkStep& step)
      : step_(step), rounding_(RoundingOf(args, k, c)) {
    const MnemosyneChunk& chunk = *step.chunk;
    step.fast = floats;
    step.square = floats + chunk.count;
    step.slow = floats + size_t{2} * chunk.count;
    step.rounding = &rounding_;
    // 0 before the first step, where all roots are 0.
    const float scale = *rounding_.inverse_scale > 0 ? *rounding_.inverse_scale : 1;
    for (size_t i = 0; i < chunk.count; ++i) {
      step.fast[i] = UnpackBrain(rounding_.fast[i]);
      step.square[i] = UnpackSquare(rounding_.roots[i], scale);
      step.slow[i] = UnpackBrain(rounding_.slow[i]);
    }
  }
  HalfChunk(const HalfChunk&) = delete;

  // Packs what the step has rounded; the roots it has packed itself.
  void PutBack() const {
    for (size_t i = 0; i < step_.chunk->count; ++i) {
      rounding_.fast[i] = PackBrain(step_.fast[i]);
      rounding_.slow[i] = PackBrain(step_.slow[i]);
    }
  }

 private:
  MnemosyneChunkStep& step_;
  MnemosyneRounding rounding_;
};

}  // namespace mnemosyne::kernels
