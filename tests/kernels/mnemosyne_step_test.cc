// What the flagship's ops promise on every backend: the numbers of the reference, for many sizes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tests/kernels/backend_param.h"
#include "tests/kernels/mnemosyne_example.h"

namespace mnemosyne::kernels {
namespace {

class MnemosyneStepTest : public BackendTest {
 protected:
  // Whether the device has the op for a session such as this one.
  bool Serves(const MnemosyneExample& example) {
    const MnemosyneMemory& memory = example.memory;
    MnemosyneMemory none;
    none.fast_half = memory.fast_half;
    return !absl::IsUnimplemented(backend_->MnemosyneStep(
        {example.model, none, {}, {}, {}, nullptr, {}, {}, /*replay=*/false}));
  }

  // Both ops of step `clock` on the backend, over a copy of the example's memory if need be.
  void Run(MnemosyneExample& example, float clock) {
    if (backend_->host_accessible()) {
      example.Run(
          clock, [&](const auto& args) { EXPECT_OK(backend_->MnemosyneContext(args)); },
          [&](const auto& args) { EXPECT_OK(backend_->MnemosyneStep(args)); });
      return;
    }
    auto copy = backend_->Allocate(example.pool().size_bytes());
    ASSERT_OK(copy);
    const auto move = [&]<typename T>(T*& pointer) {
      if (pointer == nullptr) return;
      const auto offset = reinterpret_cast<const std::byte*>(pointer) -
                          reinterpret_cast<const std::byte*>(example.pool().data());
      pointer = reinterpret_cast<T*>(copy->data() + offset);
    };
    MnemosyneModel model = example.model;
    MnemosyneMemory memory = example.memory;
    MovePointers(model.weights, move);
    MovePointers(memory, move);
    const auto upload = [&] {
      EXPECT_OK(backend_->Upload(reinterpret_cast<const std::byte*>(example.pool().data()),
                                 copy->data(), copy->size()));
    };
    example.Run(
        clock,
        [&](const MnemosyneContextArgs& args) {
          upload();
          EXPECT_OK(backend_->MnemosyneContext({model, memory, args.sums}));
        },
        [&](const MnemosyneStepArgs& args) {
          float* values = args.values;
          move(values);
          EXPECT_OK(backend_->MnemosyneStep({model, memory, args.parameters, args.steps, args.sums,
                                             values, args.square_sums, args.capped, args.replay}));
          EXPECT_OK(backend_->Download(
              copy->data(), reinterpret_cast<std::byte*>(example.pool().data()), copy->size()));
        });
  }

  // One call for step `clock` of all examples, with the weights of `of`; `taking` has the
  // parameters of each that take part.
  void Update(std::span<const std::unique_ptr<MnemosyneExample>> examples,
              std::span<const std::vector<size_t>> taking, const MnemosyneExample& of,
              float clock) {
    // What lies on the device of an example, and of the model as the last one.
    std::vector<Buffer> copies;
    const auto copy = [&](std::span<const float> pool) {
      copies.push_back(*backend_->Allocate(pool.size_bytes()));
      EXPECT_OK(backend_->Upload(reinterpret_cast<const std::byte*>(pool.data()),
                                 copies.back().data(), pool.size_bytes()));
    };
    const auto mover = [](std::span<const float> pool, const Buffer& buffer) {
      return [pool, &buffer]<typename T>(T*& pointer) {
        if (pointer == nullptr) return;
        const auto offset = reinterpret_cast<const std::byte*>(pointer) -
                            reinterpret_cast<const std::byte*>(pool.data());
        pointer = reinterpret_cast<T*>(buffer.data() + offset);
      };
    };
    std::vector<std::vector<MnemosyneTensorStep>> steps;
    for (size_t k = 0; k < examples.size(); ++k) {
      MnemosyneExample& example = *examples[k];
      example.PutGradients(static_cast<uint32_t>(clock) + 10 * static_cast<uint32_t>(example.id));
      steps.push_back(example.Steps(clock));
      steps.back().resize(taking[k].size());
      copy(example.pool());
    }
    copy(of.pool());
    MnemosyneModel model = of.model;
    MovePointers(model.weights, mover(of.pool(), copies.back()));
    std::vector<MnemosyneMemory> memories;
    for (const auto& example : examples) memories.push_back(example->memory);
    std::vector<MnemosyneUpdateArgs> all;
    for (size_t k = 0; k < examples.size(); ++k) {
      MnemosyneExample& example = *examples[k];
      float* values = example.values.data();
      const auto move = mover(example.pool(), copies[k]);
      MovePointers(memories[k], move);
      move(values);
      all.push_back({memories[k], taking[k], steps[k], values, example.sums,
                     std::span(example.square_sums).first(taking[k].size()),
                     std::span(example.capped).first(taking[k].size())});
    }
    EXPECT_OK(backend_->MnemosyneUpdates(model, all));
    for (size_t k = 0; k < examples.size(); ++k) {
      EXPECT_OK(backend_->Download(copies[k].data(),
                                   reinterpret_cast<std::byte*>(examples[k]->pool().data()),
                                   copies[k].size()));
    }
  }
};

TEST_P(MnemosyneStepTest, HasTheNumbersOfTheReference) {
  for (const SizesExample& sizes : AllSizes()) {
    MnemosyneExample actual(sizes.sizes), expected(sizes.sizes);
    if (!Serves(actual)) continue;
    for (const float clock : {1.0F, 2.0F, 3.0F, 4.0F}) {
      Run(actual, clock);
      expected.RunReference(clock);
      ExpectSame(actual, expected, 2e-5, sizes.name + ", step " + std::to_string(clock) + ", ");
    }
  }
}

// Where the arithmetic of both differs in a last bit, a number may be rounded to the other side.
TEST_P(MnemosyneStepTest, HasTheNumbersOfTheReferenceInSixteenBits) {
  for (const SizesExample& sizes : AllSizes()) {
    MnemosyneExample actual(sizes.sizes, /*half=*/true), expected(sizes.sizes, /*half=*/true);
    if (!Serves(actual)) continue;
    for (const float clock : {1.0F, 2.0F, 3.0F, 4.0F}) {
      Run(actual, clock);
      expected.RunReference(clock);
      const std::string what = sizes.name + ", step " + std::to_string(clock) + ", ";
      ExpectSameHalves(actual, expected, what);
    }
  }
}

// How many share a call changes nothing for any of them, whatever takes part.
TEST_P(MnemosyneStepTest, UpdatesOfSeveralStatesHaveTheBitsOfEachAlone) {
  for (const SizesExample& sizes : AllSizes()) {
    const MnemosyneExample model(sizes.sizes);
    if (!Serves(model)) continue;
    const std::vector<std::vector<size_t>> taking = {{0, 1, 2}, {2}, {}, {0, 2}, {1}};
    std::vector<std::unique_ptr<MnemosyneExample>> alone, shared;
    for (size_t k = 0; k < taking.size(); ++k) {
      for (auto* examples : {&alone, &shared}) {
        examples->push_back(std::make_unique<MnemosyneExample>(sizes.sizes, /*half=*/k == 3));
        examples->back()->id = k;
      }
    }
    for (const float clock : {1.0F, 2.0F, 3.0F, 4.0F}) {
      for (size_t k = 0; k < taking.size(); ++k) {
        Update({&alone[k], 1}, {&taking[k], 1}, model, clock);
      }
      Update(shared, taking, model, clock);
    }
    for (size_t k = 0; k < taking.size(); ++k) {
      const std::string what = sizes.name + ", state " + std::to_string(k);
      const auto bits = [](const MnemosyneExample& example) {
        const auto bytes = std::as_bytes(std::span<const float>(example.pool()));
        return std::vector<std::byte>(bytes.begin(), bytes.end());
      };
      EXPECT_EQ(bits(*shared[k]), bits(*alone[k])) << what;
      EXPECT_EQ(shared[k]->square_sums, alone[k]->square_sums) << what;
      EXPECT_EQ(shared[k]->capped, alone[k]->capped) << what;
      for (size_t t = 0; t < shared[k]->sums.size(); ++t) {
        EXPECT_EQ(shared[k]->sums[t].mean_square, alone[k]->sums[t].mean_square) << what;
        EXPECT_EQ(shared[k]->sums[t].shrink, alone[k]->sums[t].shrink) << what;
      }
    }
  }
}

TEST_P(MnemosyneStepTest, RefusesArgumentsThatDoNotAgree) {
  MnemosyneExample example(ShippedSizes());
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
