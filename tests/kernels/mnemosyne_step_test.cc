// What the flagship's ops promise on every backend: the numbers of the reference, for many sizes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
