#include "optim/coordinate/coordinate_optimizer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/instruction_set.h"
#include "optim/learned_optimizer.h"
#include "optim/optimizer_registry.h"
#include "tests/optim/golden.h"
#include "tests/optim/learned_run.h"
#include "tests/testing/model_files.h"
#include "tests/testing/random_floats.h"
#include "tests/testing/safetensors_file.h"

namespace mnemosyne::optim {
namespace {

using Tensors = std::vector<std::vector<float>>;

// Weights in which every part of the optimizer has its say, and those that are shipped.
constexpr const char* kRandom = "0.0.1";
constexpr const char* kShipped = "0.2.0";

std::vector<ParameterSpec> SomeParameters() {
  return {{.name = "scalar", .shape = {}},
          {.name = "bias", .shape = {31}},
          {.name = "matrix", .shape = {33, 31}},
          {.name = "kernel", .shape = {12, 5, 3, 3}},
          {.name = "long", .shape = {20000}}};
}

Tensors RandomGradients(const std::vector<ParameterSpec>& parameters, uint32_t step) {
  Tensors gradients;
  for (const ParameterSpec& parameter : parameters) {
    const auto seed = 100 * step + static_cast<uint32_t>(gradients.size());
    gradients.push_back(testing::NormalFloats(*ElementCount(parameter.shape), seed));
  }
  return gradients;
}

Tensors Scaled(Tensors gradients, double factor) {
  for (auto& gradient : gradients) {
    for (float& g : gradient) g = static_cast<float>(factor * static_cast<double>(g));
  }
  return gradients;
}

bool AllFinite(const Tensors& tensors) {
  return std::ranges::all_of(tensors, [](const std::vector<float>& tensor) {
    return std::ranges::all_of(tensor, [](float x) { return std::isfinite(x); });
  });
}

std::vector<float> Slot(LearnedRun& run, std::string_view name, size_t parameter) {
  for (const StateTensor& tensor : run.state().Tensors()) {
    if (tensor.slot != name || tensor.parameter != parameter) continue;
    const auto* const data = reinterpret_cast<const float*>(tensor.data);
    return {data, data + tensor.byte_count / sizeof(float)};
  }
  ADD_FAILURE() << "no slot " << name;
  return {};
}

class CoordinateTest : public ::testing::TestWithParam<const char*> {
 protected:
  static OptimizerFactoryPtr Factory() {
    return testing::RepositoryModel("mnemosyne-coordinate", GetParam());
  }

  static LearnedRun NewRun(const kernels::CpuOptions& options = {.threads = 2}) {
    return LearnedRun(Factory(), SomeParameters(), options);
  }
};

TEST_P(CoordinateTest, SaysWhatItKeeps) {
  EXPECT_EQ(Factory()->info().name, "mnemosyne-coordinate");
  EXPECT_EQ(Factory()->info().state_bytes_per_element, 180);
}

TEST_P(CoordinateTest, GivesTheSameBitsWhateverTheThreads) {
  for (const kernels::cpu::KernelTable* kernels : kernels::cpu::SupportedKernels()) {
    LearnedRun one = NewRun({.threads = 1, .isa = kernels->name});
    LearnedRun five = NewRun({.threads = 5, .isa = kernels->name});
    for (uint32_t step = 0; step < 4; ++step) {
      const Tensors gradients = RandomGradients(SomeParameters(), step);
      one.plan().loss = five.plan().loss = 1.0 / (1 + step);

      EXPECT_TRUE(one.Step(gradients) == five.Step(gradients)) << "step " << step;
    }
    EXPECT_TRUE(one.State() == five.State());
  }
}

TEST_P(CoordinateTest, ReplaysFromTheStateAfterTheStep) {
  LearnedRun run = NewRun();
  for (uint32_t step = 0; step < 4; ++step) {
    const Tensors gradients = RandomGradients(SomeParameters(), step);
    run.plan().loss = 1.0 / (1 + step);
    const Tensors updates = run.Step(gradients);
    const std::string state = run.State();

    EXPECT_TRUE(run.Replay(gradients) == updates) << "step " << step;
    EXPECT_TRUE(run.State() == state) << "step " << step;
  }
}

TEST_P(CoordinateTest, DoesNotSeeAPowerOfTwoOnAllGradients) {
  for (const char* isa : {"baseline", "auto"}) {
    for (const int power : {-40, -17, 1, 40}) {
      LearnedRun plain = NewRun({.threads = 2, .isa = isa});
      LearnedRun scaled = NewRun({.threads = 2, .isa = isa});
      for (uint32_t step = 0; step < 5; ++step) {
        const Tensors gradients = RandomGradients(SomeParameters(), step);

        const Tensors expected = plain.Step(gradients);

        EXPECT_TRUE(scaled.Step(Scaled(gradients, std::exp2(power))) == expected)
            << isa << ", power " << power << ", step " << step;
      }
    }
  }
}

TEST_P(CoordinateTest, HardlySeesAFactorOnAllGradients) {
  for (const int power : {-6, -3, 3, 6}) {
    LearnedRun plain = NewRun(), scaled = NewRun();
    for (uint32_t step = 0; step < 5; ++step) {
      const Tensors gradients = RandomGradients(SomeParameters(), step);

      const Tensors expected = plain.Step(gradients);
      const Tensors updates = scaled.Step(Scaled(gradients, std::pow(10, power)));

      for (size_t i = 0; i < updates.size(); ++i) {
        EXPECT_LE(RelativeDistance(updates[i], expected[i]), 1e-5)
            << "power " << power << ", step " << step << ", parameter " << i;
      }
    }
  }
}

TEST_P(CoordinateTest, StaysFiniteWithExtremeGradients) {
  constexpr float kHuge = std::numeric_limits<float>::max();
  constexpr float kDenormal = std::numeric_limits<float>::denorm_min();
  for (const char* isa : {"baseline", "auto"}) {
    for (const float value :
         {0.0F, 1.0F, kDenormal, 1e-38F, 1e-30F, 1e-20F, 1e19F, kHuge, -kHuge}) {
      LearnedRun run = NewRun({.threads = 1, .isa = isa});
      for (uint32_t step = 0; step < 12; ++step) {
        Tensors gradients = RandomGradients(SomeParameters(), step);
        // Extreme steps, then ordinary ones, then extreme elements among ordinary ones.
        for (auto& gradient : gradients) {
          for (size_t i = 0; i < gradient.size(); ++i) {
            if (step < 5 || (step > 8 && i % 7 == 0)) gradient[i] = value;
          }
        }

        const Tensors updates = run.Step(gradients);

        ASSERT_TRUE(AllFinite(updates)) << value << ", step " << step;
        if (value == 0 && step < 5) {
          EXPECT_EQ(updates[1], std::vector<float>(updates[1].size(), 0.0F));
        }
      }
      for (const char* slot : {"fast", "slow", "square", "log_step", "content", "mass"}) {
        EXPECT_TRUE(AllFinite({Slot(run, slot, 2)})) << slot;
      }
    }
  }
}

// Where squares of gradients end below float32, steps are small rather than wild.
TEST_P(CoordinateTest, HardlyMovesForGradientsWhoseSquaresVanish) {
  LearnedRun run = NewRun();
  for (uint32_t step = 0; step < 5; ++step) {
    const Tensors updates = run.Step(Scaled(RandomGradients(SomeParameters(), step), 1e-22));
    for (const auto& update : updates) {
      for (const float u : update) ASSERT_LE(std::abs(u), 1e-6F);
    }
  }
}

TEST_P(CoordinateTest, StaysFiniteAfterManyQuietSteps) {
  const std::vector<ParameterSpec> parameters = {{.name = "p", .shape = {33}}};
  LearnedRun run(Factory(), parameters, {.threads = 1});
  run.Step(RandomGradients(parameters, 1));

  Tensors updates;
  for (int step = 0; step < 10000; ++step) updates = run.Step({std::vector<float>(33, 0.0F)});

  EXPECT_TRUE(AllFinite(updates));
  EXPECT_LE(std::abs(*std::ranges::max_element(updates[0])), 1e-3F);
  EXPECT_TRUE(AllFinite(run.Step(RandomGradients(parameters, 2))));
}

TEST_P(CoordinateTest, HoldsAdamsMoments) {
  LearnedRun adam(*OptimizerRegistry().Find("adam", ""), SomeParameters()), run = NewRun();
  for (uint32_t step = 1; step <= 30; ++step) {
    const Tensors gradients = RandomGradients(SomeParameters(), step);
    adam.Step(gradients);
    run.Step(gradients);
    const double mass_fast = 1 - std::pow(0.9, step), mass_square = 1 - std::pow(0.999, step);
    // Not the scalar, whose moment goes through 0.
    for (size_t i = 1; i < gradients.size(); ++i) {
      const Tensors moments = Scaled({Slot(run, "fast", i)}, mass_fast);
      const Tensors squares = Scaled({Slot(run, "square", i)}, mass_square);

      EXPECT_LE(RelativeDistance(moments[0], Slot(adam, "exp_avg", i)), 1e-6);
      EXPECT_LE(RelativeDistance(squares[0], Slot(adam, "exp_avg_sq", i)), 1e-6);
    }
  }
}

TEST_P(CoordinateTest, DoesNotKnowOfOtherTensors) {
  LearnedRun run = NewRun(), other = NewRun();
  for (uint32_t step = 0; step < 3; ++step) {
    Tensors gradients = RandomGradients(SomeParameters(), step);
    const Tensors updates = run.Step(gradients);
    for (float& g : gradients[2]) g = 100 - g;
    const Tensors changed = other.Step(gradients);

    EXPECT_TRUE(changed[1] == updates[1] && changed[3] == updates[3] && changed[4] == updates[4]);
    EXPECT_FALSE(changed[2] == updates[2]);
  }
}

// PyTorch stores a matrix as [outputs, inputs], JAX as [inputs, outputs].
TEST_P(CoordinateTest, DoesNotSeeTheOrderOfStorage) {
  const auto make = [](std::vector<int64_t> shape) {
    ParameterSpec parameter = {.name = "w", .shape = std::move(shape)};
    parameter.fan_in = 33;
    parameter.fan_out = 20;
    return std::vector<ParameterSpec>{parameter};
  };
  const auto transposed = [](const std::vector<float>& x, size_t rows) {
    std::vector<float> result(x.size());
    const size_t columns = x.size() / rows;
    for (size_t i = 0; i < x.size(); ++i) result[i % columns * rows + i / columns] = x[i];
    return result;
  };
  LearnedRun run(Factory(), make({33, 20})), other(Factory(), make({20, 33}));
  for (uint32_t step = 0; step < 3; ++step) {
    const Tensors gradients = RandomGradients(make({33, 20}), step);
    const Tensors updates = run.Step(gradients);
    const Tensors same = other.Step({transposed(gradients[0], 33)});

    EXPECT_LE(RelativeDistance(transposed(same[0], 20), updates[0]), 1e-6);
  }
}

TEST_P(CoordinateTest, GoesOnFromASavedState) {
  LearnedRun run = NewRun(), resumed = NewRun();
  for (uint32_t step = 0; step < 3; ++step) {
    run.plan().loss = 2.0 / (1 + step);
    run.plan().parameter_rms = {1, 0, 0.1F, 0.2F, 3};
    run.Step(RandomGradients(SomeParameters(), step));
  }
  resumed.SetState(run.State(), 3);
  resumed.plan().loss = run.plan().loss = 0.4;
  const Tensors gradients = RandomGradients(SomeParameters(), 3);

  EXPECT_TRUE(resumed.Step(gradients) == run.Step(gradients));
  EXPECT_TRUE(resumed.State() == run.State());
}

TEST_P(CoordinateTest, HearsWhatIsTold) {
  const Tensors gradients = RandomGradients(SomeParameters(), 1);
  const Tensors untold = NewRun().Step(gradients);
  LearnedRun loss = NewRun(), horizon = NewRun(), scale = NewRun();
  loss.plan().loss = 2;
  horizon.plan().horizon = 100;
  scale.plan().parameter_rms = {1, 1, 1, 1, 1};

  for (LearnedRun* run : {&loss, &horizon, &scale}) EXPECT_NE(run->Step(gradients), untold);
}

std::string ParamName(const ::testing::TestParamInfo<const char*>& param) {
  return std::string_view(param.param) == kShipped ? "shipped" : "random";
}

INSTANTIATE_TEST_SUITE_P(Models, CoordinateTest, ::testing::Values(kRandom, kShipped), ParamName);

// The parts of a model file, to be made wrong.
struct File {
  std::map<std::string, std::string> metadata;
  std::map<std::string, testing::FileTensor> tensors;

  File() {
    const Safetensors file = *Safetensors::Read(
        testing::SourceFolder() +
            "/tests/golden/models/mnemosyne-coordinate/0.0.1/weights.safetensors",
        size_t{1} << 20);
    metadata = file.metadata();
    for (const SafetensorsTensor& tensor : file.tensors()) {
      tensors[tensor.name] = {tensor.shape, *file.Floats(tensor)};
    }
  }

  // Replaces a text of the config.
  void Replace(std::string_view from, std::string_view to) {
    std::string& config = metadata.at("config");
    const size_t start = config.find(from);
    ASSERT_NE(start, std::string::npos) << from;
    config.replace(start, from.size(), to);
  }

  absl::StatusOr<OptimizerFactoryPtr> Make() const {
    auto parsed = Safetensors::Parse(testing::MakeSafetensors(metadata, tensors));
    if (!parsed.ok()) return parsed.status();
    auto model = Model::Create("name", "1", *std::move(parsed));
    if (!model.ok()) return model.status();
    return MakeLearnedOptimizer(*std::move(model));
  }
};

TEST(CoordinateReadOutTest, OfZerosIsAdamWithTheWidthPrior) {
  constexpr double kVector = 0.004, kMatrix = 0.0044;
  std::vector<ParameterSpec> parameters = {{.name = "bias", .shape = {31}},
                                           {.name = "matrix", .shape = {128, 31}}};
  parameters[1].fan_in = 128;
  File file;
  for (const char* name : {"learned.out.w", "learned.out.b"}) {
    std::ranges::fill(file.tensors.at(name).values, 0.0F);
  }
  LearnedRun run(file.Make().value(), parameters);
  LearnedRun adam(*OptimizerRegistry().Find("adam", ""), parameters, {.threads = 1},
                  {{"learning_rate", 1}, {"epsilon", 0}});
  for (uint32_t step = 1; step <= 20; ++step) {
    const Tensors gradients = RandomGradients(parameters, step);
    const Tensors updates = run.Step(gradients), directions = adam.Step(gradients);
    const double steps[] = {kVector, kMatrix * std::pow(2, -0.7)};
    for (size_t i = 0; i < updates.size(); ++i) {
      // The optimizers' epsilons differ.
      EXPECT_LE(RelativeDistance(updates[i], Scaled({directions[i]}, steps[i])[0]), 2e-3);
    }
  }
}

TEST(CoordinateModelTest, TakesOtherSizesAndMapsFromTheConfig) {
  const std::tuple<const char*, int64_t, int64_t> maps[] = {{"favor_plus_plus", 4, 4},
                                                            {"hyperbolic", 2, 4},
                                                            {"relu", 4, 4},
                                                            {"elu", 0, 4},
                                                            {"dpfp", 0, 8}};
  for (const auto& [kind, rows, features] : maps) {
    File file;
    file.Replace("\"favor_plus\"", fmt::format("\"{}\"", kind));
    file.tensors["fixed.projection"].shape = {2, rows, 4};
    file.tensors["fixed.projection"].values.resize(static_cast<size_t>(2 * rows * 4));
    const auto factory = file.Make();
    ASSERT_OK(factory) << kind;
    EXPECT_EQ((*factory)->info().state_bytes_per_element,
              static_cast<double>(4 * (5 + 2 * features * 5)));
    LearnedRun run(*factory, SomeParameters());
    for (uint32_t step = 0; step < 3; ++step) {
      EXPECT_TRUE(AllFinite(run.Step(RandomGradients(SomeParameters(), step)))) << kind;
    }
  }
}

TEST(CoordinateModelTest, NamesWhatDoesNotFit) {
  const auto expect_refusal = [](const auto& change, const char* text) {
    File file;
    change(file);
    EXPECT_THAT(file.Make(), testing::IsError(absl::StatusCode::kInvalidArgument, text));
  };
  expect_refusal([](File& f) { f.tensors.erase("learned.out.b"); }, "learned.out.b");
  expect_refusal([](File& f) { f.tensors["more"] = {{1}, {0}}; }, "unknown tensor: 'more'");
  expect_refusal([](File& f) { f.Replace("\"hidden\": 24", "\"hidden\": 65"); }, "hidden");
  expect_refusal([](File& f) { f.Replace("\"hidden\": 24", "\"hidden\": 25"); },
                 "learned.hidden.w");
  expect_refusal([](File& f) { f.Replace("[0.9, 0.99]", "[]"); }, "there are 0 discounts");
  expect_refusal([](File& f) { f.Replace("\"favor_plus\"", "\"x\""); }, "unknown feature map");
  expect_refusal([](File& f) { f.Replace("\"memory_features\": 8", "\"memory_features\": 80"); },
                 "the map favor_plus has 40 features, the most is 32");
  expect_refusal([](File& f) { f.tensors["fixed.knobs.eta_high"].values = {0}; },
                 "wrong knob: eta_high is 0");
  expect_refusal([](File& f) { f.tensors["fixed.knobs.eta_low"].values = {0}; },
                 "wrong knob: eta_low is 0");
}

}  // namespace
}  // namespace mnemosyne::optim
