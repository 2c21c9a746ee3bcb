// What the flagship's ops promise on every backend: the numbers of the reference, for many sizes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kernels/mnemosyne_fold.h"
#include "kernels/reference/mnemosyne_reference.h"
#include "tests/kernels/backend_param.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::kernels {
namespace {

using testing::NormalFloats;

struct SizesExample {
  std::string name;
  MnemosyneSizes sizes;
};

MnemosyneSizes ShippedSizes() {
  MnemosyneSizes sizes;
  sizes.cell_size = 32;
  sizes.chunk_cells = 32;
  sizes.cell_width = 16;
  sizes.key_width = 8;
  sizes.positional = 4;
  sizes.cell_map = {.inputs = 12, .features = 16, .scale = 0.25F};
  sizes.cell_hidden = 16;
  sizes.token_width = 32;
  sizes.memory_heads = 2;
  sizes.memory_map = {.inputs = 8, .features = 8, .scale = 0.35F};
  sizes.memory_width = 16;
  sizes.context_map = {.inputs = 8, .features = 16, .scale = 0.25F};
  sizes.hidden = 32;
  return sizes;
}

std::vector<SizesExample> AllSizes() {
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

// Weights, a session of three parameters, and its memory; in host memory.
class Example {
 public:
  explicit Example(const MnemosyneSizes& sizes, bool half = false) {
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
    memory.chunks = chunks_.data();
    memory.chunk_count = chunks_.size();
    const size_t c = chunks_.size();
    const size_t features = sizes.memory_heads * sizes.memory_map.features;
    if (half) {
      halves_.resize(3 * arena_size);
      memory.fast_half = halves_.data();
      memory.square_half = halves_.data() + arena_size;
      memory.slow_half = halves_.data() + 2 * arena_size;
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
    numbers_.push_back(NormalFloats(2 * cells_ * sizes.positional, 99));
    memory.positions = numbers_.back().data();
    for (float& x : numbers_.back()) x *= 0.3F;
    sums.resize(tensors_.size());
    square_sums.resize(tensors_.size());
    capped.resize(tensors_.size());
    values.resize(arena_size);
  }
  Example(const Example&) = delete;

  // Runs context and step of step `clock` with `backend`, or without one with the reference.
  void Step(Backend* backend, float clock) {
    values = NormalFloats(arena_size, static_cast<uint32_t>(clock));
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
    const std::vector<size_t> parameters = {0, 1, 2};
    const MnemosyneContextArgs context = {model, memory, sums};
    const MnemosyneStepArgs step = {model,         memory,      parameters, steps,           sums,
                                    values.data(), square_sums, capped,     /*replay=*/false};
    if (backend == nullptr) {
      reference::MnemosyneContext(context);
      reference::MnemosyneStep(step);
    } else {
      EXPECT_OK(backend->MnemosyneContext(context));
      EXPECT_OK(backend->MnemosyneStep(step));
    }
  }

  MnemosyneModel model;
  MnemosyneMemory memory;
  size_t arena_size = 0;
  std::vector<MnemosyneTensorSums> sums;
  std::vector<double> square_sums;
  std::vector<size_t> capped;
  std::vector<float> values;

  const std::vector<uint16_t>& halves() const { return halves_; }

  std::span<const float> Choices() const {
    return {reinterpret_cast<const float*>(memory.choices), chunks_.size() * kChoiceCount};
  }
  size_t chunk_count() const { return chunks_.size(); }
  size_t cell_count() const { return cells_; }

 private:
  float* Numbers(size_t count) {
    numbers_.emplace_back(count + 16);
    return numbers_.back().data();
  }

  const float* Weights(size_t rows, size_t columns) {
    const std::vector<float> drawn = NormalFloats(rows * columns, ++seed_);
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
  std::vector<std::vector<float>> numbers_;
  std::vector<uint16_t> halves_;
  size_t cells_ = 0;
  uint32_t seed_ = 0;
};

void ExpectClose(std::span<const float> actual, std::span<const float> expected, double tolerance,
                 const std::string& what) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(static_cast<double>(actual[i]) - static_cast<double>(expected[i]), 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(size)) << what;
  EXPECT_GT(size, 0) << what;
}

class MnemosyneStepTest : public BackendTest {};

TEST_P(MnemosyneStepTest, HasTheNumbersOfTheReference) {
  if (!backend_->host_accessible()) GTEST_SKIP() << "not implemented on this device";
  for (const SizesExample& sizes : AllSizes()) {
    Example actual(sizes.sizes), expected(sizes.sizes);
    for (const float clock : {1.0F, 2.0F, 3.0F, 4.0F}) {
      actual.Step(backend_.get(), clock);
      expected.Step(nullptr, clock);
      const std::string what = sizes.name + ", step " + std::to_string(clock) + ", ";

      const auto compare = [&](const float* a, const float* b, size_t count, const char* name) {
        ExpectClose({a, count}, {b, count}, 2e-5, what + name);
      };
      const MnemosyneMemory &a = actual.memory, &b = expected.memory;
      compare(actual.values.data(), expected.values.data(), actual.arena_size, "updates");
      compare(a.fast, b.fast, actual.arena_size, "r1");
      compare(a.square, b.square, actual.arena_size, "s");
      compare(a.slow, b.slow, actual.arena_size, "r2");
      compare(a.tokens, b.tokens, actual.chunk_count() * sizes.sizes.token_width, "tokens");
      if (const size_t mass = MemoryMassCount(sizes.sizes); mass > 0) {
        compare(a.mass, b.mass, actual.chunk_count() * mass, "mass");
      }
      compare(a.gains, b.gains, actual.cell_count(), "gains");
      compare(actual.Choices().data(), expected.Choices().data(), actual.Choices().size(),
              "choices");
      EXPECT_EQ(actual.capped, expected.capped) << what;
      for (size_t k = 0; k < actual.sums.size(); ++k) {
        EXPECT_NEAR(actual.square_sums[k], expected.square_sums[k], 1e-4 * expected.square_sums[k]);
        EXPECT_NEAR(actual.sums[k].shrink, expected.sums[k].shrink, 1e-6);
        EXPECT_NEAR(actual.sums[k].mean_square, expected.sums[k].mean_square, 1e-6);
      }
    }
  }
}

// Where the arithmetic of both differs in a last bit, a number may be rounded to the other side.
TEST_P(MnemosyneStepTest, HasTheNumbersOfTheReferenceInSixteenBits) {
  if (!backend_->host_accessible()) GTEST_SKIP() << "not implemented on this device";
  for (const SizesExample& sizes : AllSizes()) {
    Example actual(sizes.sizes, /*half=*/true), expected(sizes.sizes, /*half=*/true);
    for (const float clock : {1.0F, 2.0F, 3.0F, 4.0F}) {
      actual.Step(backend_.get(), clock);
      expected.Step(nullptr, clock);

      const std::string what = sizes.name + ", step " + std::to_string(clock) + ", ";
      ExpectClose(actual.values, expected.values, 2e-3, what + "updates");
      ExpectClose(actual.Choices(), expected.Choices(), 1e-3, what + "choices");
      size_t different = 0;
      for (size_t i = 0; i < actual.halves().size(); ++i) {
        different += actual.halves()[i] == expected.halves()[i] ? 0 : 1;
      }
      EXPECT_LE(different, 2 + actual.halves().size() / 100) << what;
    }
  }
}

TEST_P(MnemosyneStepTest, RefusesArgumentsThatDoNotAgree) {
  if (!backend_->host_accessible()) GTEST_SKIP() << "not implemented on this device";
  Example example(ShippedSizes());
  std::vector<MnemosyneTensorStep> steps(3);
  const auto run = [&](std::vector<size_t> parameters) {
    return backend_->MnemosyneStep({example.model, example.memory, parameters, steps, example.sums,
                                    example.values.data(), example.square_sums, example.capped,
                                    /*replay=*/false});
  };

  EXPECT_THAT(run({0, 1}), testing::IsError(absl::StatusCode::kInvalidArgument, "steps has 3"));
  EXPECT_THAT(run({0, 2, 1}),
              testing::IsError(absl::StatusCode::kInvalidArgument, "wrong parameter: 1"));
  EXPECT_THAT(run({0, 1, 3}),
              testing::IsError(absl::StatusCode::kInvalidArgument, "wrong parameter: 3"));
  example.model.sizes.cell_width = 65;
  EXPECT_THAT(run({0, 1, 2}),
              testing::IsError(absl::StatusCode::kInvalidArgument, "cell_width is 65"));
}

INSTANTIATE_TEST_SUITE_P(Backends, MnemosyneStepTest, kAllBackends, BackendParamName);

}  // namespace
}  // namespace mnemosyne::kernels
