#include "optim/lstm/lstm_optimizer.h"

#include <cmath>

#include "kernels/cpu/instruction_set.h"
#include "tests/optim/golden.h"
#include "tests/optim/learned_run.h"
#include "tests/testing/model_files.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::optim {
namespace {

using testing::LstmFile;

constexpr kernels::LstmSizes kLstm = {2, 20, false};
constexpr kernels::LstmSizes kRnnProp = {2, 20, true};

using Tensors = std::vector<std::vector<float>>;

std::vector<ParameterSpec> Parameters() {
  return {{.name = "scalar", .shape = {}},
          {.name = "bias", .shape = {31}},
          {.name = "matrix", .shape = {33, 31}},
          {.name = "long", .shape = {5000}}};
}

Tensors Gradients(int64_t step, float scale = 1) {
  Tensors gradients;
  for (const ParameterSpec& parameter : Parameters()) {
    gradients.push_back(testing::NormalFloats(
        *ElementCount(parameter.shape),
        static_cast<uint32_t>(100 * step) + static_cast<uint32_t>(gradients.size())));
    for (float& g : gradients.back()) g = scale * std::copysign(std::abs(g) + 1e-3F, g);
  }
  return gradients;
}

TEST(LstmOptimizerTest, SaysWhatItIs) {
  const OptimizerFactoryPtr lstm = LstmFile(kLstm).Make("lstm", "0.1.0");
  const OptimizerFactoryPtr rnnprop = LstmFile(kRnnProp).Make("rnnprop", "3");

  EXPECT_EQ(lstm->info().name, "lstm");
  EXPECT_EQ(lstm->info().version, "0.1.0");
  EXPECT_EQ(lstm->info().weights_hash.size(), 64U);
  EXPECT_EQ(lstm->info().state_bytes_per_element, 320);
  EXPECT_EQ(rnnprop->info().state_bytes_per_element, 328);
  EXPECT_NE(lstm->info().weights_hash, rnnprop->info().weights_hash);
}

TEST(LstmOptimizerTest, GivesTheSameBitsWhateverTheThreads) {
  for (const kernels::LstmSizes& sizes : {kLstm, kRnnProp}) {
    const OptimizerFactoryPtr factory = LstmFile(sizes).Make();
    for (const kernels::cpu::KernelTable* kernels : kernels::cpu::SupportedKernels()) {
      LearnedRun one(factory, Parameters(), {.threads = 1, .isa = kernels->name});
      LearnedRun many(factory, Parameters(), {.threads = 5, .isa = kernels->name});
      for (int64_t step = 0; step < 3; ++step) {
        EXPECT_EQ(one.Step(Gradients(step)), many.Step(Gradients(step)));
      }
      EXPECT_EQ(one.State(), many.State());
    }
  }
}

TEST(LstmOptimizerTest, ReplaysWithoutLookingAtTheGradient) {
  for (const kernels::LstmSizes& sizes : {kLstm, kRnnProp}) {
    LearnedRun run(LstmFile(sizes).Make(), Parameters());
    run.Step(Gradients(1));
    const Tensors updates = run.Step(Gradients(2));
    const std::string state = run.State();

    EXPECT_EQ(run.Replay(Gradients(7)), updates);
    EXPECT_EQ(run.State(), state);
  }
}

// RNNProp's features are quotients. The epsilon of their denominator, 1e-12, is lost in rounding
// unless gradients are tiny.
TEST(LstmOptimizerTest, RnnPropDoesNotSeeAPowerOfTwoInTheGradients) {
  const OptimizerFactoryPtr factory = LstmFile(kRnnProp).Make();
  LearnedRun plain(factory, Parameters());
  std::vector<Tensors> expected;
  for (int64_t step = 0; step < 3; ++step) expected.push_back(plain.Step(Gradients(step)));

  for (const int power : {-4, 1, 13, 40}) {
    LearnedRun scaled(factory, Parameters());
    for (int64_t step = 0; step < 3; ++step) {
      EXPECT_EQ(scaled.Step(Gradients(step, std::ldexp(1.0F, power))),
                expected[static_cast<size_t>(step)])
          << power;
    }
  }
}

TEST(LstmOptimizerTest, RnnPropHardlySeesAPowerOfTenInTheGradients) {
  const OptimizerFactoryPtr factory = LstmFile(kRnnProp).Make();
  LearnedRun plain(factory, Parameters());
  std::vector<Tensors> expected;
  for (int64_t step = 0; step < 3; ++step) expected.push_back(plain.Step(Gradients(step)));

  for (const float factor : {1e-3F, 10.0F, 1e8F}) {
    LearnedRun scaled(factory, Parameters());
    for (int64_t step = 0; step < 3; ++step) {
      const Tensors updates = scaled.Step(Gradients(step, factor));
      for (size_t i = 0; i < updates.size(); ++i) {
        EXPECT_LE(RelativeDistance(updates[i], expected[static_cast<size_t>(step)][i]), 1e-5)
            << factor;
      }
    }
  }
}

TEST(LstmOptimizerTest, StaysFiniteThroughQuietAndLoudSteps) {
  for (const kernels::LstmSizes& sizes : {kLstm, kRnnProp}) {
    LearnedRun run(LstmFile(sizes).Make(), {{.name = "p", .shape = {8}}});
    const Tensors loud = {{3e38F, -3e38F, 1e30F, 1, -1e-20F, 1e-38F, 1e-45F, 0}};
    const Tensors quiet = {std::vector<float>(8, 0)};
    for (int round = 0; round < 2; ++round) {
      run.Step(loud);
      for (int step = 0; step < 1000; ++step) run.Step(quiet);
      const Tensors updates = run.Step(loud);
      for (const float update : updates[0]) EXPECT_TRUE(std::isfinite(update));
    }
  }
}

TEST(LstmOptimizerTest, AScalarAndAnElementOfATensorAreTheSame) {
  const OptimizerFactoryPtr factory = LstmFile(kRnnProp).Make();
  LearnedRun alone(factory, {{.name = "scalar", .shape = {}}});
  LearnedRun among(factory, {{.name = "many", .shape = {3, 50}}});
  for (int step = 1; step < 4; ++step) {
    const float g = 0.1F * static_cast<float>(step);
    EXPECT_EQ(alone.Step({{g}})[0][0], among.Step({std::vector<float>(150, g)})[0][149]);
  }
}

}  // namespace
}  // namespace mnemosyne::optim
