// What the flagship promises whatever its weights are: with those that are shipped, and with random
// ones in which every part has its say.
#include "optim/mnemosyne/mnemosyne_optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>

#include "optim/optimizer_registry.h"
#include "tests/optim/learned_run.h"
#include "tests/testing/model_files.h"
#include "tests/testing/random_floats.h"

namespace mnemosyne::optim {
namespace {

using Tensors = std::vector<std::vector<float>>;
using testing::NormalFloats;

constexpr char kShipped[] = "0.4.0";
// The same priors without a decoder: nothing but the guard holds it back.
constexpr char kPriors[] = "0.3.0";
constexpr char kRandom[] = "0.0.1";

std::vector<ParameterSpec> SomeParameters() {
  std::vector<ParameterSpec> parameters(4);
  parameters[0].name = "matrix";
  parameters[0].shape = {70, 43};
  parameters[1].name = "bias";
  parameters[1].shape = {37};
  parameters[2].name = "kernel";
  parameters[2].shape = {16, 8, 4, 4};
  parameters[3].name = "scalar";
  return parameters;
}

Tensors RandomGradients(const std::vector<ParameterSpec>& parameters, uint32_t seed) {
  Tensors gradients;
  for (const ParameterSpec& parameter : parameters) {
    gradients.push_back(NormalFloats(*ElementCount(parameter.shape), ++seed * 1000));
  }
  return gradients;
}

Tensors Scaled(Tensors tensors, double factor) {
  for (auto& tensor : tensors) {
    for (float& x : tensor) x = static_cast<float>(static_cast<double>(x) * factor);
  }
  return tensors;
}

bool AllFinite(const Tensors& tensors) {
  for (const auto& tensor : tensors) {
    for (const float x : tensor) {
      if (!std::isfinite(x)) return false;
    }
  }
  return true;
}

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return difference == 0 ? 0 : std::sqrt(difference / size);
}

double Rms(const float* x, size_t count) {
  double square = 0;
  for (size_t i = 0; i < count; ++i) square += std::pow(static_cast<double>(x[i]), 2);
  return std::sqrt(square / static_cast<double>(count));
}

// A copy of one tensor of the state.
std::vector<float> Slot(LearnedRun& run, std::string_view slot, size_t parameter) {
  for (const StateTensor& tensor : run.state().Tensors()) {
    if (tensor.slot != slot || tensor.parameter != parameter) continue;
    std::vector<float> values(tensor.byte_count / sizeof(float));
    std::memcpy(values.data(), tensor.data, tensor.byte_count);
    return values;
  }
  ADD_FAILURE() << "no slot " << slot;
  return {};
}

class MnemosyneTest : public ::testing::TestWithParam<const char*> {
 protected:
  LearnedRun NewRun(const kernels::CpuOptions& options = {.threads = 2}) {
    return LearnedRun(testing::MnemosyneModel(GetParam()), SomeParameters(), options);
  }
};

TEST_P(MnemosyneTest, GivesTheSameBitsWhateverTheNumberOfThreads) {
  LearnedRun one = NewRun({.threads = 1}), five = NewRun({.threads = 5});
  for (uint32_t step = 0; step < 4; ++step) {
    const Tensors gradients = RandomGradients(SomeParameters(), step);
    one.plan().loss = five.plan().loss = 1.0 / (1 + step);

    EXPECT_TRUE(one.Step(gradients) == five.Step(gradients)) << "step " << step;
    EXPECT_TRUE(one.State() == five.State()) << "step " << step;
  }
}

TEST_P(MnemosyneTest, ReplaysFromTheStateAfterTheStep) {
  LearnedRun run = NewRun();
  for (uint32_t step = 0; step < 4; ++step) {
    // The last update is capped.
    const Tensors gradients = RandomGradients(SomeParameters(), step);
    if (step == 3) run.plan().groups[0].values[5] = 1e-4;
    const Tensors updates = run.Step(gradients);
    const std::string state = run.State();

    EXPECT_TRUE(run.Replay(gradients) == updates) << "step " << step;
    EXPECT_TRUE(run.State() == state) << "step " << step;
  }
  EXPECT_GT(run.state().notes().guard->capped_chunks, 0);
}

TEST_P(MnemosyneTest, DoesNotSeeAPowerOfTwoOnAllGradients) {
  for (const int power : {-40, -17, 1, 40}) {
    LearnedRun plain = NewRun(), scaled = NewRun();
    for (uint32_t step = 0; step < 5; ++step) {
      const Tensors gradients = RandomGradients(SomeParameters(), step);

      const Tensors expected = plain.Step(gradients);

      EXPECT_TRUE(scaled.Step(Scaled(gradients, std::exp2(power))) == expected)
          << "power " << power << ", step " << step;
    }
  }
}

TEST_P(MnemosyneTest, HardlySeesAFactorOnAllGradients) {
  for (const int power : {-6, -3, 3, 6}) {
    LearnedRun plain = NewRun(), scaled = NewRun();
    for (uint32_t step = 0; step < 5; ++step) {
      const Tensors gradients = RandomGradients(SomeParameters(), step);

      const Tensors expected = plain.Step(gradients);
      const Tensors updates = scaled.Step(Scaled(gradients, std::pow(10, power)));

      for (size_t i = 0; i < updates.size(); ++i) {
        EXPECT_LE(Distance(updates[i], expected[i]), 1e-5)
            << "power " << power << ", step " << step << ", parameter " << i;
      }
    }
  }
}

TEST_P(MnemosyneTest, StaysFiniteWithExtremeGradients) {
  constexpr float kHuge = std::numeric_limits<float>::max();
  constexpr float kDenormal = std::numeric_limits<float>::denorm_min();
  for (const char* isa : {"baseline", "auto"}) {
    for (const float value : {0.0F, 1.0F, kDenormal, 1e-30F, 1e19F, kHuge, -kHuge}) {
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
          EXPECT_EQ(updates[0], std::vector<float>(updates[0].size(), 0.0F));
        }
      }
      EXPECT_TRUE(
          AllFinite({Slot(run, "fast", 0), Slot(run, "square", 0), Slot(run, "slow", 0),
                     Slot(run, "tokens", 0), Slot(run, "content", 0), Slot(run, "choices", 0)}));
    }
  }
}

TEST_P(MnemosyneTest, StaysFiniteAfterManyQuietSteps) {
  std::vector<ParameterSpec> parameters(1);
  parameters[0].name = "p";
  parameters[0].shape = {33};
  LearnedRun run(testing::MnemosyneModel(GetParam()), parameters, {.threads = 1});
  run.Step(RandomGradients(parameters, 1));

  Tensors updates;
  for (int step = 0; step < 10000; ++step) updates = run.Step({std::vector<float>(33, 0.0F)});

  EXPECT_TRUE(AllFinite(updates));
  EXPECT_LE(Rms(updates[0].data(), 33), 1e-3);
  EXPECT_TRUE(AllFinite(run.Step(RandomGradients(parameters, 2))));
}

// A stale row drifts by what the memories still say of its one gradient. The step size that both
// drifts are counted in is what a row with a constant gradient moves in a step, on average.
TEST_P(MnemosyneTest, LetsAStaleRowDriftLittleFurtherThanAdam) {
  constexpr size_t kRows = 64, kWidth = 32;
  constexpr int kSteps = 400;
  std::vector<ParameterSpec> parameters(1);
  parameters[0].name = "embedding";
  parameters[0].shape = {kRows, kWidth};
  parameters[0].role = "embedding";
  const auto drift = [&](const OptimizerFactoryPtr& factory) {
    LearnedRun run(factory, parameters, {.threads = 1});
    std::vector<float> stale(kWidth, 0.0F);
    double moved = 0;
    for (uint32_t step = 0; step < kSteps; ++step) {
      std::vector<float> gradient = NormalFloats(kRows * kWidth, step);
      for (size_t i = 0; i < kWidth; ++i) {
        gradient[i] = step == 0 ? 1.0F : 0.0F;
        gradient[kWidth + i] = 1;
      }
      const Tensors updates = run.Step({gradient});
      for (size_t i = 0; i < kWidth; ++i) stale[i] += step == 0 ? 0 : updates[0][i];
      moved += Rms(updates[0].data() + kWidth, kWidth) / kSteps;
    }
    return Rms(stale.data(), kWidth) / moved;
  };
  OptimizerFactoryPtr adam;
  const OptimizerRegistry registry;
  for (const OptimizerFactoryPtr& factory : registry.factories()) {
    if (factory->info().name == "adam") adam = factory;
  }

  const double ours = drift(testing::MnemosyneModel(GetParam())), theirs = drift(adam);

  RecordProperty("ours", std::to_string(ours));
  RecordProperty("adam", std::to_string(theirs));
  EXPECT_LE(ours, 4 * theirs);
}

TEST_P(MnemosyneTest, HoldsAdamsMoments) {
  const OptimizerRegistry registry;
  OptimizerFactoryPtr factory;
  for (const OptimizerFactoryPtr& known : registry.factories()) {
    if (known->info().name == "adam") factory = known;
  }
  LearnedRun adam(factory, SomeParameters()), run = NewRun();
  for (uint32_t step = 1; step <= 30; ++step) {
    const Tensors gradients = RandomGradients(SomeParameters(), step);
    adam.Step(gradients);
    run.Step(gradients);
    const double mass_fast = 1 - std::pow(0.9, step), mass_square = 1 - std::pow(0.999, step);
    for (size_t i = 0; i < gradients.size(); ++i) {
      const Tensors moments = Scaled({Slot(run, "fast", i)}, mass_fast);
      const Tensors squares = Scaled({Slot(run, "square", i)}, mass_square);

      // A mean of gradients may be far smaller than they are: it is held to the root of squares.
      const std::vector<float> expected = Slot(adam, "exp_avg", i);
      double difference = 0, size = 0;
      for (size_t k = 0; k < expected.size(); ++k) {
        difference += std::pow(static_cast<double>(moments[0][k] - expected[k]), 2);
        size += static_cast<double>(squares[0][k]) / mass_square;
      }
      EXPECT_LE(std::sqrt(difference / size), 1e-6);
      EXPECT_LE(Distance(squares[0], Slot(adam, "exp_avg_sq", i)), 1e-6);
    }
  }
}

// |r1| / sqrt(s) is at most the root of Psi_s / Psi_r1: no gradient can make a direction larger.
TEST_P(MnemosyneTest, KeepsTheFirstMemoryWithinTheSecond) {
  LearnedRun run = NewRun();
  for (uint32_t step = 1; step <= 60; ++step) {
    const double factor = step % 20 == 0 ? 1e4 : std::pow(0.7, step);
    run.Step(Scaled(RandomGradients(SomeParameters(), step), factor));
    const double mass_fast = (1 - std::pow(0.9, step)) / 0.1;
    const double mass_square = (1 - std::pow(0.999, step)) / 0.001;
    const double bound = std::sqrt(mass_square / mass_fast) * (1 + 1e-5);
    const std::vector<float> fast = Slot(run, "fast", 0), square = Slot(run, "square", 0);
    for (size_t i = 0; i < fast.size(); ++i) {
      ASSERT_LE(std::abs(static_cast<double>(fast[i])),
                bound * std::sqrt(static_cast<double>(square[i])))
          << "step " << step;
    }
  }
}

TEST_P(MnemosyneTest, DoesNotWaitForOtherTensors) {
  LearnedRun run = NewRun(), other = NewRun();
  Tensors gradients = RandomGradients(SomeParameters(), 1);
  run.Step(gradients);
  other.Step(gradients);
  gradients = RandomGradients(SomeParameters(), 2);
  const Tensors updates = run.Step(gradients);
  for (float& g : gradients[2]) g = 100 - g;
  const Tensors changed = other.Step(gradients);

  EXPECT_TRUE(changed[0] == updates[0] && changed[1] == updates[1] && changed[3] == updates[3]);
  EXPECT_FALSE(changed[2] == updates[2]);
}

TEST_P(MnemosyneTest, LearnsOfOtherTensorsInTheNextStep) {
  LearnedRun run = NewRun(), other = NewRun();
  Tensors gradients = RandomGradients(SomeParameters(), 1);
  run.Step(gradients);
  for (float& g : gradients[2]) g = 100 - g;
  other.Step(gradients);

  const bool same = run.Step(gradients)[0] == other.Step(gradients)[0];

  // The decoder that is shipped makes nothing of what is learned.
  EXPECT_EQ(same, std::string_view(GetParam()) == kShipped);
}

TEST_P(MnemosyneTest, GoesOnFromASavedState) {
  LearnedRun run = NewRun(), resumed = NewRun();
  for (uint32_t step = 0; step < 3; ++step) {
    run.plan().loss = 2.0 / (1 + step);
    run.Step(RandomGradients(SomeParameters(), step));
  }
  resumed.SetState(run.State(), 3);
  resumed.plan().loss = run.plan().loss = 0.4;
  const Tensors gradients = RandomGradients(SomeParameters(), 3);

  EXPECT_TRUE(resumed.Step(gradients) == run.Step(gradients));
  EXPECT_TRUE(resumed.State() == run.State());
}

TEST_P(MnemosyneTest, WorksWithCellsOfOneCoordinate) {
  LearnedRun run(testing::MnemosyneModel(GetParam(), {{"cell_size", 1}, {"chunk_size", 64}}),
                 SomeParameters());
  for (uint32_t step = 0; step < 4; ++step) {
    const Tensors updates = run.Step(RandomGradients(SomeParameters(), step));

    EXPECT_TRUE(AllFinite(updates));
    EXPECT_GT(Rms(updates[0].data(), updates[0].size()), 0);
  }
}

std::string ParamName(const ::testing::TestParamInfo<const char*>& param) {
  return std::string_view(param.param) == kShipped ? "shipped" : "random";
}

INSTANTIATE_TEST_SUITE_P(Weights, MnemosyneTest, ::testing::Values(kShipped, kRandom), ParamName);

// A slope that an optimizer with a long memory runs down for long, until an adversary puts a wall
// in its way, a hundred times steeper than the slope.
struct Wall {
  explicit Wall(const std::map<std::string, double>& hyperparameters)
      : run(testing::MnemosyneModel(kPriors), Parameters(), {.threads = 1}, hyperparameters) {}

  static std::vector<ParameterSpec> Parameters() {
    std::vector<ParameterSpec> parameters(1);
    parameters[0].name = "p";
    parameters[0].shape = {kSize};
    return parameters;
  }

  double Loss() const {
    if (p < wall) return kBottom + (wall - p);
    return kBottom + kSteep * std::min(p - wall, kDepth);
  }

  void Step() {
    run.plan().loss = Loss();
    const bool in_wall = p >= wall && p < wall + kDepth;
    const float gradient = in_wall ? static_cast<float>(kSteep) : -1.0F;
    p += static_cast<double>(run.Step({std::vector<float>(kSize, gradient)})[0][0]);
  }

  static constexpr size_t kSize = 64;
  static constexpr double kSteep = 100, kDepth = 0.35, kBottom = 0.5;
  LearnedRun run;
  double p = 0;
  double wall = 20;
};

TEST(MnemosyneGuardTest, RecoversWhereTheUnguardedOptimizerDiverges) {
  Wall guarded({}), unguarded({{"guard", 0}});
  for (int step = 0; step < 400; ++step) {
    guarded.Step();
    unguarded.Step();
  }
  guarded.wall = guarded.p;
  unguarded.wall = unguarded.p;
  for (int step = 0; step < 150; ++step) {
    guarded.Step();
    unguarded.Step();
  }

  EXPECT_GT(unguarded.Loss(), 50 * Wall::kBottom);
  EXPECT_LT(guarded.Loss(), 1.5 * Wall::kBottom);
  EXPECT_EQ(guarded.run.state().notes().guard->trips, 1);
  EXPECT_EQ(unguarded.run.state().notes().guard->trips, 0);
}

TEST(MnemosyneGuardTest, CapsUpdates) {
  LearnedRun guarded(testing::MnemosyneModel(kShipped), SomeParameters());
  LearnedRun free(testing::MnemosyneModel(kShipped), SomeParameters(), {.threads = 2},
                  {{"guard", 0}});
  guarded.plan().groups[0].learning_rate = free.plan().groups[0].learning_rate = 100;
  for (uint32_t step = 0; step < 10; ++step) {
    const Tensors gradients = RandomGradients(SomeParameters(), step);
    const Tensors updates = guarded.Step(gradients), larger = free.Step(gradients);
    // The most is 0.1 / sqrt(fan-in), of a bias and of a scalar 0.1.
    EXPECT_LE(Rms(updates[1].data(), 37), 0.1 * (1 + 1e-6));
    EXPECT_LE(std::abs(updates[3][0]), 0.1 * (1 + 1e-6));
    EXPECT_LE(Rms(updates[0].data(), updates[0].size()), 0.1 / std::pow(70 * 43, 0.25) * 1.000001);
    EXPECT_GT(Rms(larger[1].data(), 37), step == 0 ? 0.1 : 0.05);
  }
  EXPECT_GT(guarded.state().notes().guard->capped_chunks, 10);
  EXPECT_EQ(free.state().notes().guard->capped_chunks, 0);
}

TEST(MnemosyneGuardTest, TripsWhenTheLossRisesAndFadesWhenItHasFallen) {
  std::vector<ParameterSpec> parameters = Wall::Parameters();
  LearnedRun run(testing::MnemosyneModel(kShipped), parameters);
  const auto step = [&](std::optional<double> loss) {
    run.plan().loss = loss;
    run.Step(RandomGradients(parameters, 1));
    return *run.state().notes().guard;
  };
  for (int i = 0; i < 40; ++i) EXPECT_EQ(step(0.1).trips, 0);

  GuardReport report;
  for (int i = 0; i < 5; ++i) report = step(2.0);
  EXPECT_EQ(report.trips, 1);
  EXPECT_EQ(report.level, 1);
  // Nothing that is not told can change its mind, and it lets go a little a step.
  for (int i = 0; i < 60; ++i) report = step(0.1);
  EXPECT_EQ(report.trips, 1);
  EXPECT_GT(report.level, 0);
  EXPECT_LT(report.level, 1);
  for (int i = 0; i < 300; ++i) report = step(0.1);
  EXPECT_EQ(report.level, 0);

  report = step(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(report.trips, 2);
  EXPECT_EQ(report.level, 1);
}

TEST(MnemosyneGuardTest, TakesItsMarginFromTheSession) {
  std::vector<ParameterSpec> parameters = Wall::Parameters();
  LearnedRun run(testing::MnemosyneModel(kShipped), parameters, {.threads = 1},
                 {{"guard_margin", 100}});
  for (int i = 0; i < 50; ++i) {
    run.plan().loss = i < 40 ? 0.1 : 2.0;
    run.Step(RandomGradients(parameters, 1));
  }

  EXPECT_EQ(run.state().notes().guard->trips, 0);
}

}  // namespace
}  // namespace mnemosyne::optim
