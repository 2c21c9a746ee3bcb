// A session with the flagship, for tests of its ops.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/mnemosyne_fold.h"
#include "kernels/mnemosyne_step.h"
#include "kernels/reference/mnemosyne_reference.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::kernels {

struct SizesExample {
  std::string name;
  MnemosyneSizes sizes;
};

inline MnemosyneSizes ShippedSizes() {
  MnemosyneSizes sizes;
  sizes.cell_size = 128;
  sizes.chunk_cells = 32;
  sizes.cell_width = 8;
  sizes.key_width = 8;
  sizes.positional = 4;
  sizes.cell_map = {.inputs = 12, .features = 8, .scale = 0.35F};
  sizes.cell_hidden = 8;
  sizes.token_width = 32;
  sizes.memory_heads = 2;
  sizes.memory_map = {.inputs = 8, .features = 8, .scale = 0.35F};
  sizes.memory_width = 16;
  sizes.context_map = {.inputs = 8, .features = 8, .scale = 0.35F};
  sizes.hidden = 32;
  return sizes;
}

inline std::vector<SizesExample> AllSizes() {
  std::vector<SizesExample> all = {{"shipped", ShippedSizes()}};
  MnemosyneSizes odd = ShippedSizes();
  odd.cell_size = 5;
  odd.chunk_cells = 19;
  odd.cell_width = 7;
  odd.cell_hidden = 21;
  odd.token_width = 13;
  odd.memory_heads = 3;
  odd.memory_width = 18;
  odd.hidden = 9;
  all.push_back({"odd", odd});
  MnemosyneSizes literal = ShippedSizes();
  literal.cell_size = 1;
  literal.chunk_cells = 64;
  all.push_back({"literal", literal});
  MnemosyneSizes wide = ShippedSizes();
  wide.cell_size = 48;
  wide.chunk_cells = 3;
  wide.cell_width = 33;
  all.push_back({"wide", wide});
  for (const auto& [name, rule] : {std::pair("delta", MnemosyneWriteRule::kDelta),
                                   {"recurrent delta", MnemosyneWriteRule::kRecurrentDelta}}) {
    MnemosyneSizes sizes = ShippedSizes();
    sizes.write_rule = rule;
    all.push_back({name, sizes});
    sizes = odd;
    sizes.write_rule = rule;
    all.push_back({std::string("odd ") + name, sizes});
  }
  for (const auto& [name, shape] :
       {std::pair("hyperbolic", FeatureMapShape::kHyperbolic), {"relu", FeatureMapShape::kRelu}}) {
    MnemosyneSizes sizes = ShippedSizes();
    for (FeatureMapSizes* map : {&sizes.cell_map, &sizes.memory_map, &sizes.context_map}) {
      map->shape = shape;
      map->epsilon = 0.01F;
    }
    all.push_back({name, sizes});
  }
  return all;
}

// Weights, a session of three parameters, and its memory: all in one piece of host memory, so that
// a copy of it on a device is one copy.
class MnemosyneExample {
 public:
  explicit MnemosyneExample(const MnemosyneSizes& sizes, bool half = false) : pool_(kPoolFloats) {
    model.sizes = sizes;
    model.knobs = {.sharp_weight = 0.1F,
                   .fast_weight = 0.3F,
                   .slow_weight = 0.5F,
                   .growth = 1.3F,
                   .decay = 0.1F,
                   .write_limit = 1.0F,
                   .eta_rise = 0.05F,
                   .smoothing = 0.2F,
                   .eta_low = -4,
                   .eta_high = 1.5F,
                   .guard_share = 0.1F,
                   .epsilon = 1e-5F};
    MakeWeights();
    const size_t chunk = sizes.cell_size * sizes.chunk_cells;
    AddTensor(3 * chunk - 7, true);
    AddTensor(1, false);
    AddTensor(chunk, true);
    memory.tensors = tensors_;
    auto* const chunks = reinterpret_cast<MnemosyneChunk*>(
        Numbers(chunks_.size() * sizeof(MnemosyneChunk) / sizeof(float)));
    std::copy(chunks_.begin(), chunks_.end(), chunks);
    memory.chunks = chunks;
    memory.chunk_count = chunks_.size();
    const size_t c = chunks_.size();
    const size_t features = sizes.memory_heads * sizes.memory_map.features;
    if (half) {
      memory.fast_half = Halves();
      memory.square_half = Halves();
      memory.slow_half = Halves();
      memory.inverse_root_scales = Numbers(c);
    } else {
      memory.fast = Numbers(arena_size);
      memory.square = Numbers(arena_size);
      memory.slow = Numbers(arena_size);
    }
    memory.tokens = Numbers(c * sizes.token_width);
    memory.content = Numbers(c * features * sizes.memory_width);
    memory.mass = Numbers(c * MemoryMassCount(sizes));
    memory.gains = Numbers(cells_);
    memory.choices = reinterpret_cast<MnemosyneChoice*>(Numbers(c * kChoiceCount));
    memory.context_queries = Numbers(2 * c * sizes.context_map.features);
    memory.context_contents = Numbers((tensors_.size() + 1) * ContextContentCount(sizes));
    float* const positions = Numbers(2 * cells_ * sizes.positional);
    const std::vector<float> drawn = testing::NormalFloats(2 * cells_ * sizes.positional, 99);
    std::transform(drawn.begin(), drawn.end(), positions, [](float x) { return 0.3F * x; });
    memory.positions = positions;
    sums.resize(tensors_.size());
    square_sums.resize(tensors_.size());
    capped.resize(tensors_.size());
    values = {Numbers(arena_size), arena_size};
  }
  MnemosyneExample(const MnemosyneExample&) = delete;

  void PutGradients(uint32_t seed) {
    const std::vector<float> gradients = testing::NormalFloats(arena_size, seed);
    std::copy(gradients.begin(), gradients.end(), values.begin());
  }

  // What step `clock` is told of each parameter.
  std::vector<MnemosyneTensorStep> Steps(float clock) const {
    std::vector<MnemosyneTensorStep> steps(tensors_.size());
    for (MnemosyneTensorStep& step : steps) {
      step.gradient_scale = 0.5F;
      step.rate_fast = static_cast<float>(0.1 / (1 - std::pow(0.9, clock)));
      step.rate_square = static_cast<float>(0.001 / (1 - std::pow(0.999, clock)));
      step.age = clock;
      step.clock = static_cast<uint64_t>(clock);
      step.fall = std::pow(clock, -0.25F);
      step.warm = clock / (clock + 6);
      step.limit = clock == 3 ? 1e-3F : std::numeric_limits<float>::infinity();
      step.level = 0.25F;
      for (size_t i = 0; i < kConditionCount; ++i)
        step.conditions[i] = 0.1F * static_cast<float>(i);
    }
    return steps;
  }

  // Runs both ops of step `clock`: context(args), then step(args).
  template <typename Context, typename Step>
  void Run(float clock, const Context& run_context, const Step& run_step) {
    PutGradients(static_cast<uint32_t>(clock));
    const std::vector<MnemosyneTensorStep> steps = Steps(clock);
    const std::vector<size_t> parameters = {0, 1, 2};
    const MnemosyneContextArgs context = {model, memory, sums};
    const MnemosyneStepArgs step = {model,         memory,      parameters, steps,           sums,
                                    values.data(), square_sums, capped,     /*replay=*/false};
    run_context(context);
    run_step(step);
  }

  // With the reference.
  void RunReference(float clock) {
    Run(clock, &reference::MnemosyneContext, &reference::MnemosyneStep);
  }

  size_t id = 0;  // For tests of several.
  MnemosyneModel model;
  MnemosyneMemory memory;
  size_t arena_size = 0;
  std::vector<MnemosyneTensorSums> sums;
  std::vector<double> square_sums;
  std::vector<size_t> capped;
  std::span<float> values;

  std::span<const float> Choices() const {
    return {reinterpret_cast<const float*>(memory.choices), chunks_.size() * kChoiceCount};
  }
  // The three memories of 16 bits, one after the other; empty without.
  std::span<const uint16_t> halves() const {
    return {memory.fast_half, memory.fast_half == nullptr ? 0 : 3 * HalfStride()};
  }
  // All that the model and the memory point to.
  std::span<float> pool() { return {pool_.data(), used_}; }
  std::span<const float> pool() const { return {pool_.data(), used_}; }
  size_t chunk_count() const { return chunks_.size(); }
  size_t cell_count() const { return cells_; }

 private:
  static constexpr size_t kPoolFloats = size_t{1} << 20;

  // Zeros, aligned to 16 bytes.
  float* Numbers(size_t count) {
    float* const start = pool_.data() + used_;
    used_ += (count + 31) / 16 * 16;
    EXPECT_LE(used_, pool_.size());
    return start;
  }

  // Numbers of 16 bits from one memory to the next.
  size_t HalfStride() const { return 2 * ((arena_size / 2 + 31) / 16 * 16); }
  uint16_t* Halves() { return reinterpret_cast<uint16_t*>(Numbers(arena_size / 2)); }

  const float* Weights(size_t rows, size_t columns) {
    const std::vector<float> drawn = testing::NormalFloats(rows * columns, ++seed_);
    float* const target = Numbers(rows * PaddedColumns(columns));
    const float scale = 0.7F / std::sqrt(static_cast<float>(rows));
    for (size_t i = 0; i < drawn.size(); ++i) {
      target[i / columns * PaddedColumns(columns) + i % columns] = scale * drawn[i];
    }
    return target;
  }
  DenseWeights Dense(size_t inputs, size_t outputs) {
    return {Weights(inputs, outputs), Weights(1, outputs)};
  }
  MapWeights Map(const FeatureMapSizes& map) {
    return {Weights(map.inputs, ProjectionCount(map)), nullptr};
  }

  void MakeWeights() {
    const MnemosyneSizes& s = model.sizes;
    MnemosyneWeights& w = model.weights;
    w.embed = Dense(kCellFeatureCount, s.cell_width);
    w.cell_heads = Dense(s.cell_width, 2 * s.key_width + s.cell_width);
    w.cell_map = Map(s.cell_map);
    w.merge = Dense(s.cell_width, s.cell_width);
    w.expand = Dense(s.cell_width, s.cell_hidden);
    w.contract = Dense(s.cell_hidden, s.cell_width);
    w.pool = Dense(s.cell_width + kChunkFeatureCount, s.token_width);
    w.memory_heads = Dense(s.token_width, 2 * s.key_width + s.memory_width);
    for (size_t j = 0; j < s.memory_heads; ++j) {
      w.memory_maps[j] = Map(s.memory_map);
      w.discounts[j] = 0.9F + 0.03F * static_cast<float>(j);
    }
    w.memory_strengths = Dense(s.token_width, s.memory_heads);
    w.recurrent = Weights(s.memory_heads * s.memory_width, RecurrentOutputCount(s));
    w.context_heads = Dense(s.token_width, 2 * (2 * s.key_width + s.memory_width));
    w.context_map = Map(s.context_map);
    w.decoder_hidden = Dense(DecoderInputCount(s), s.hidden);
    w.decision = Dense(s.hidden, kDecisionCount);
    w.gain = Dense(s.cell_width, 1);
    FoldMaps(model, Numbers(FoldedCount(s)));
  }

  // As many cells a chunk as fit, the last one partly filled.
  void AddTensor(size_t count, bool decays) {
    const size_t chunk_size = model.sizes.cell_size * model.sizes.chunk_cells;
    const size_t first = chunks_.size();
    for (size_t start = 0; start < count; start += chunk_size) {
      const size_t here = std::min(chunk_size, count - start);
      const size_t cells = (here + model.sizes.cell_size - 1) / model.sizes.cell_size;
      chunks_.push_back(
          {arena_size + start, cells_, static_cast<uint32_t>(here), static_cast<uint32_t>(cells)});
      cells_ += cells;
    }
    tensors_.push_back({first, chunks_.size() - first, count, 0.03F, decays ? 1.0F : 0.0F});
    arena_size += (count + 15) / 16 * 16;
  }

  std::vector<MnemosyneTensor> tensors_;
  std::vector<MnemosyneChunk> chunks_;
  std::vector<float> pool_;
  size_t used_ = 0;
  size_t cells_ = 0;
  uint32_t seed_ = 0;
};

// Calls move(pointer) for all pointers to an example's memory.
template <typename Move>
void MovePointers(MnemosyneWeights& w, const Move& move) {
  for (DenseWeights* map :
       {&w.embed, &w.cell_heads, &w.merge, &w.expand, &w.contract, &w.pool, &w.memory_heads,
        &w.context_heads, &w.decoder_hidden, &w.decision, &w.gain, &w.memory_strengths,
        &w.folds.cell_values, &w.folds.cell_gain, &w.folds.pool}) {
    move(map->w);
    move(map->b);
  }
  move(w.cell_map.w);
  move(w.context_map.w);
  move(w.recurrent);
  for (MapWeights& map : w.memory_maps) move(map.w);
}
template <typename Move>
void MovePointers(MnemosyneMemory& memory, const Move& move) {
  for (float** pointer :
       {&memory.fast, &memory.square, &memory.slow, &memory.tokens, &memory.content, &memory.mass,
        &memory.gains, &memory.context_queries, &memory.context_contents}) {
    move(*pointer);
  }
  move(memory.fast_half);
  move(memory.square_half);
  move(memory.slow_half);
  move(memory.inverse_root_scales);
  move(memory.choices);
  move(memory.chunks);
  move(memory.positions);
}

inline void ExpectClose(std::span<const float> actual, std::span<const float> expected,
                        double tolerance, const std::string& what) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(static_cast<double>(actual[i]) - static_cast<double>(expected[i]), 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(size)) << what;
  EXPECT_GT(size, 0) << what;
}

// That two examples hold the same after a step.
inline void ExpectSame(const MnemosyneExample& actual, const MnemosyneExample& expected,
                       double tolerance, const std::string& what) {
  const auto compare = [&](const float* a, const float* b, size_t count, const char* name) {
    ExpectClose({a, count}, {b, count}, tolerance, what + name);
  };
  const MnemosyneMemory &a = actual.memory, &b = expected.memory;
  compare(actual.values.data(), expected.values.data(), actual.arena_size, "updates");
  const size_t mass = MemoryMassCount(actual.model.sizes);
  compare(a.fast, b.fast, actual.arena_size, "r1");
  compare(a.square, b.square, actual.arena_size, "s");
  compare(a.slow, b.slow, actual.arena_size, "r2");
  compare(a.tokens, b.tokens, actual.chunk_count() * actual.model.sizes.token_width, "tokens");
  if (mass > 0) compare(a.mass, b.mass, actual.chunk_count() * mass, "mass");
  compare(a.gains, b.gains, actual.cell_count(), "gains");
  compare(actual.Choices().data(), expected.Choices().data(), actual.Choices().size(), "choices");
  EXPECT_EQ(actual.capped, expected.capped) << what;
  for (size_t k = 0; k < actual.sums.size(); ++k) {
    EXPECT_NEAR(actual.square_sums[k], expected.square_sums[k], 1e-4 * expected.square_sums[k]);
    EXPECT_NEAR(actual.sums[k].shrink, expected.sums[k].shrink, 1e-6);
    EXPECT_NEAR(actual.sums[k].mean_square, expected.sums[k].mean_square, 1e-6);
  }
}

// The same of examples with a state of 16 bits, where a number in a hundred may be rounded to the
// other side.
inline void ExpectSameHalves(const MnemosyneExample& actual, const MnemosyneExample& expected,
                             const std::string& what) {
  ExpectClose(actual.values, expected.values, 2e-3, what + "updates");
  ExpectClose(actual.Choices(), expected.Choices(), 1e-3, what + "choices");
  size_t different = 0;
  for (size_t i = 0; i < actual.halves().size(); ++i) {
    different += actual.halves()[i] == expected.halves()[i] ? 0 : 1;
  }
  EXPECT_LE(different, 2 + actual.halves().size() / 100) << what;
}

}  // namespace mnemosyne::kernels
