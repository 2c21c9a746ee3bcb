// What every registered optimizer promises, on every backend.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <ostream>
#include <utility>

#include "optim/optimizer_registry.h"
#include "tests/testing/model_files.h"
#include "tests/testing/random_floats.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

using testing::NormalFloats;

struct ContractParam {
  OptimizerFactoryPtr factory;
  std::string device;

  // GoogleTest shows a parameter with this.
  friend void PrintTo(const ContractParam& param, std::ostream* out) {
    *out << param.factory->info().name << " on " << param.device;
  }
};

// The classic optimizers, and the models of the repository.
const OptimizerRegistry& AllOptimizers() {
  static const auto* const registry = new OptimizerRegistry(testing::RepositoryModels());
  return *registry;
}

std::vector<ContractParam> AllParams() {
  std::vector<ContractParam> params;
  for (const OptimizerFactoryPtr& factory : AllOptimizers().factories()) {
    for (const char* device : {"cpu", "cuda:0"}) params.push_back({factory, device});
  }
  return params;
}

std::string ParamName(const ::testing::TestParamInfo<ContractParam>& info) {
  const OptimizerInfo& optimizer = info.param.factory->info();
  std::string name = fmt::format("{}_{}_{}", optimizer.name, optimizer.version,
                                 info.param.device.substr(0, info.param.device.find(':')));
  std::ranges::replace_if(
      name, [](char c) { return c == '.' || c == '-'; }, '_');
  return name;
}

ParameterLayout MakeLayout() {
  std::vector<ParameterSpec> parameters(4);
  parameters[0].name = "conv.weight";
  parameters[0].shape = {8, 3, 3, 3};
  parameters[1].name = "conv.bias";
  parameters[1].shape = {8};
  parameters[2].name = "scale";
  parameters[2].group = 1;
  parameters[3].name = "linear.weight";
  parameters[3].shape = {130, 259};
  parameters[3].group = 1;
  return *ParameterLayout::Create(std::move(parameters));
}

// What a step answers.
struct Answer {
  std::vector<float> updates;  // Arena
  std::vector<double> square_sums;

  bool operator==(const Answer& other) const {  // Bit for bit.
    return square_sums == other.square_sums && updates.size() == other.updates.size() &&
           std::memcmp(updates.data(), other.updates.data(), updates.size() * 4) == 0;
  }
};

class OptimizerContractTest : public ::testing::TestWithParam<ContractParam> {
 protected:
  void SetUp() override {
    auto backend = kernels::CreateBackend(GetParam().device);
    if (absl::IsFailedPrecondition(backend.status())) GTEST_SKIP() << backend.status();
    ASSERT_OK(backend);
    backend_ = *std::move(backend);
    auto optimizer = GetParam().factory->Create(*backend_);
    if (absl::IsUnimplemented(optimizer.status())) GTEST_SKIP() << optimizer.status();
    ASSERT_OK(optimizer);
    optimizer_ = *std::move(optimizer);
    state_ = NewState();
    values_ = *backend_->Allocate(layout_.arena_size() * sizeof(float));
  }

  std::unique_ptr<OptimizerState> NewState() {
    auto state = optimizer_->Init(layout_);
    EXPECT_OK(state);
    return *std::move(state);
  }

  // Hyper-parameters that leave no part of the rule out, where the optimizer has them.
  HyperparameterValues Hyperparameters() {
    const std::map<std::string, double> wanted = {
        {"momentum", 0.9}, {"nesterov", 1}, {"dampening", 0.1}, {"weight_decay", 0.1}};
    std::map<std::string, double> given;
    for (const HyperparameterSpec& spec : optimizer_->info().hyperparameters) {
      const auto found = wanted.find(std::string(spec.name));
      if (found != wanted.end()) given.insert(*found);
    }
    return *ResolveHyperparameters(optimizer_->info().hyperparameters, given, {});
  }

  StepPlan MakePlan(int64_t step) {
    StepPlan plan;
    plan.step = step;
    plan.parameters.resize(layout_.parameters().size());
    for (ParameterStep& part : plan.parameters) part.clock = step;
    plan.parameters[1].gradient_scale = 0.25F;
    plan.groups = {{0.01, Hyperparameters()}, {0.002, Hyperparameters()}};
    return plan;
  }

  std::vector<float> Gradients(int64_t step) {
    return NormalFloats(layout_.arena_size(), static_cast<uint32_t>(step));
  }

  void PutValues(const std::vector<float>& host) {
    ASSERT_OK(backend_->Upload(reinterpret_cast<const std::byte*>(host.data()), values_.data(),
                               values_.size()));
  }

  Answer GetAnswer(std::vector<double> square_sums) {
    Answer answer{std::vector<float>(layout_.arena_size()), std::move(square_sums)};
    EXPECT_OK(backend_->Download(
        values_.data(), reinterpret_cast<std::byte*>(answer.updates.data()), values_.size()));
    return answer;
  }

  Answer Update(const StepPlan& plan, const std::vector<float>& gradients) {
    PutValues(gradients);
    std::vector<double> square_sums(plan.parameters.size(), -1);
    EXPECT_OK(optimizer_->Update(*state_, plan, values_.as<float>(), square_sums));
    return GetAnswer(std::move(square_sums));
  }

  Answer Replay(const StepPlan& plan, const std::vector<float>& gradients) {
    PutValues(gradients);
    std::vector<double> square_sums(plan.parameters.size(), -1);
    EXPECT_OK(optimizer_->Replay(*state_, plan, values_.as<float>(), square_sums));
    return GetAnswer(std::move(square_sums));
  }

  std::vector<std::byte> StateBytes() {
    std::vector<std::byte> bytes;
    for (const StateTensor& tensor : state_->Tensors()) {
      const size_t start = bytes.size();
      bytes.resize(start + tensor.byte_count);
      EXPECT_OK(backend_->Download(tensor.data, bytes.data() + start, tensor.byte_count));
    }
    return bytes;
  }

  void SetStateBytes(const std::vector<std::byte>& bytes) {
    size_t start = 0;
    for (const StateTensor& tensor : state_->Tensors()) {
      ASSERT_OK(backend_->Upload(bytes.data() + start, tensor.data, tensor.byte_count));
      start += tensor.byte_count;
    }
    ASSERT_EQ(start, bytes.size());
  }

  const ParameterLayout layout_ = MakeLayout();
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<OptimizerState> state_;
  kernels::Buffer values_;
};

// Sessions that step together get the bits of each alone, whoever else is there.
TEST_P(OptimizerContractTest, StepsThatAreSharedHaveTheBitsOfEachAlone) {
  constexpr size_t kStates = 3;
  std::vector<std::unique_ptr<OptimizerState>> alone, shared;
  std::vector<kernels::Buffer> values;
  for (size_t k = 0; k < kStates; ++k) {
    alone.push_back(NewState());
    shared.push_back(NewState());
    values.push_back(*backend_->Allocate(values_.size()));
  }
  for (int64_t step = 1; step <= 3; ++step) {
    std::vector<StepPlan> plans;
    std::vector<std::vector<double>> sums;
    std::vector<Answer> expected;
    for (size_t k = 0; k < kStates; ++k) {
      plans.push_back(MakePlan(step));
      plans.back().parameters[2].takes_part = k != 1;
      const std::vector<float> gradients = Gradients(10 * step + static_cast<int64_t>(k));
      std::swap(state_, alone[k]);
      expected.push_back(Update(plans.back(), gradients));
      std::swap(state_, alone[k]);
      sums.emplace_back(plans.back().parameters.size(), -1);
      EXPECT_OK(backend_->Upload(reinterpret_cast<const std::byte*>(gradients.data()),
                                 values[k].data(), values[k].size()));
    }
    std::vector<Optimizer::SharedStep> steps;
    for (size_t k = 0; k < kStates; ++k) {
      steps.push_back({*shared[k], plans[k], values[k].as<float>(), sums[k], {}});
    }
    optimizer_->UpdateMany(steps);
    for (size_t k = 0; k < kStates; ++k) {
      EXPECT_OK(steps[k].status);
      std::swap(values_, values[k]);
      EXPECT_EQ(GetAnswer(sums[k]), expected[k]) << "state " << k << ", step " << step;
      std::swap(values_, values[k]);
    }
  }
}

TEST_P(OptimizerContractTest, AsksForNoMemoryOnceItHasSteppedForAWhile) {
  const auto step = [&](int64_t number) { Update(MakePlan(number), Gradients(number)); };
  for (int64_t number = 1; number <= 5; ++number) step(number);
  const uint64_t asked = backend_->allocation_count();
  const std::optional<size_t> free = backend_->FreeMemory();
  for (int64_t number = 6; number <= 105; ++number) step(number);
  EXPECT_EQ(backend_->allocation_count(), asked);
  EXPECT_EQ(backend_->FreeMemory(), free);
}

TEST_P(OptimizerContractTest, ReplaysAStepBitForBitWithoutTouchingTheState) {
  for (int64_t step = 1; step <= 5; ++step) {
    const StepPlan plan = MakePlan(step);
    const Answer answer = Update(plan, Gradients(step));
    const std::vector<std::byte> state = StateBytes();

    EXPECT_TRUE(Replay(plan, Gradients(step)) == answer) << "step " << step;
    EXPECT_TRUE(Replay(plan, Gradients(step)) == answer) << "step " << step;
    EXPECT_TRUE(StateBytes() == state) << "step " << step;
  }
}

TEST_P(OptimizerContractTest, ReplaysAStepThatLeavesAParameterOut) {
  Update(MakePlan(1), Gradients(1));
  StepPlan plan = MakePlan(2);
  plan.parameters[0].takes_part = false;
  const Answer answer = Update(plan, Gradients(2));

  EXPECT_TRUE(Replay(plan, Gradients(2)) == answer);
}

TEST_P(OptimizerContractTest, GivesTheSameBitsFromTheSameState) {
  std::vector<Answer> answers;
  for (int run = 0; run < 2; ++run) {
    state_ = NewState();
    Update(MakePlan(1), Gradients(1));
    answers.push_back(Update(MakePlan(2), Gradients(2)));
  }
  EXPECT_TRUE(answers[0] == answers[1]);
}

TEST_P(OptimizerContractTest, GoesOnFromASavedState) {
  Update(MakePlan(1), Gradients(1));
  const std::vector<std::byte> saved = StateBytes();
  const Answer expected = Update(MakePlan(2), Gradients(2));

  state_ = NewState();
  SetStateBytes(saved);

  EXPECT_TRUE(Update(MakePlan(2), Gradients(2)) == expected);
}

TEST_P(OptimizerContractTest, ReplaysFromASavedState) {
  const Answer expected = Update(MakePlan(1), Gradients(1));
  const std::vector<std::byte> saved = StateBytes();

  state_ = NewState();
  SetStateBytes(saved);

  EXPECT_TRUE(Replay(MakePlan(1), Gradients(1)) == expected);
}

TEST_P(OptimizerContractTest, AnswersZerosForAParameterThatDoesNotTakePart) {
  Update(MakePlan(1), Gradients(1));
  StepPlan plan = MakePlan(2);
  plan.parameters[3].takes_part = false;
  const auto slots_of = [&](size_t parameter) {
    std::vector<std::byte> bytes;
    for (const StateTensor& tensor : state_->Tensors()) {
      if (tensor.parameter != parameter) continue;
      const size_t start = bytes.size();
      bytes.resize(start + tensor.byte_count);
      EXPECT_OK(backend_->Download(tensor.data, bytes.data() + start, tensor.byte_count));
    }
    return bytes;
  };
  const auto before = slots_of(3);

  const Answer answer = Update(plan, Gradients(2));

  const ParameterLayout::Run& run = layout_.runs()[3];
  EXPECT_THAT(std::span(answer.updates).subspan(run.offset, run.count), ::testing::Each(0));
  EXPECT_EQ(answer.square_sums[3], 0);
  EXPECT_GT(answer.square_sums[0], 0);
  EXPECT_TRUE(slots_of(3) == before);
}

TEST_P(OptimizerContractTest, SumsTheSquaresOfItsScaledUpdates) {
  const StepPlan plan = MakePlan(1);
  const Answer answer = Update(plan, Gradients(1));

  for (size_t i = 0; i < layout_.runs().size(); ++i) {
    const ParameterLayout::Run& run = layout_.runs()[i];
    const double scale = optimizer_->Rule(plan.groups[layout_.parameters()[i].group]).scale;
    double expected = 0;
    for (size_t k = run.offset; k < run.offset + run.count; ++k) {
      expected += std::pow(scale * static_cast<double>(answer.updates[k]), 2);
    }
    EXPECT_NEAR(answer.square_sums[i], expected, 1e-7 * expected);
  }
}

TEST_P(OptimizerContractTest, SeesScaledGradients) {
  StepPlan scaled = MakePlan(1), plain = MakePlan(1);
  for (ParameterStep& part : scaled.parameters) part.gradient_scale = 0.5F;
  for (ParameterStep& part : plain.parameters) part.gradient_scale = 1;
  std::vector<float> halved = Gradients(1);
  for (float& g : halved) g *= 0.5F;

  const Answer expected = Update(plain, halved);
  state_ = NewState();

  const Answer answer = Update(scaled, Gradients(1));
  for (const ParameterLayout::Run& run : layout_.runs()) {
    EXPECT_EQ(0, std::memcmp(&answer.updates[run.offset], &expected.updates[run.offset],
                             run.count * sizeof(float)));
  }
}

TEST_P(OptimizerContractTest, ListsItsTensorsOnceAndCountsTheirBytes) {
  size_t bytes = 0;
  std::map<std::pair<size_t, std::string>, int> seen;
  for (const StateTensor& tensor : state_->Tensors()) {
    ASSERT_LT(tensor.parameter, layout_.parameters().size());
    const auto elements = ElementCount(tensor.shape);
    ASSERT_OK(elements);
    EXPECT_EQ(tensor.byte_count, *elements * ElementSize(tensor.data_type));
    EXPECT_EQ(++seen[std::pair(tensor.parameter, std::string(tensor.slot))], 1);
    bytes += tensor.byte_count;
  }

  EXPECT_LE(bytes, optimizer_->StateBytes(layout_));
  // Some keep a little more for each parameter.
  EXPECT_NEAR(static_cast<double>(bytes) / static_cast<double>(layout_.element_count()),
              optimizer_->info().state_bytes_per_element, 0.2);
}

TEST_P(OptimizerContractTest, LetsTheClientDecayDecoupled) {
  const StepPlan plan = MakePlan(1);

  EXPECT_EQ(optimizer_->Rule(plan.groups[0]).decay, 0.01 * 0.1);
  EXPECT_EQ(optimizer_->Rule(plan.groups[1]).decay, 0.002 * 0.1);
}

TEST_P(OptimizerContractTest, RefusesAPlanOfAnotherLayout) {
  StepPlan plan = MakePlan(1);
  std::vector<double> square_sums(plan.parameters.size());
  plan.groups.pop_back();
  EXPECT_THAT(optimizer_->Update(*state_, plan, values_.as<float>(), square_sums),
              testing::IsError(absl::StatusCode::kInternal, "missing group: parameter scale"));
  plan = MakePlan(1);
  plan.parameters.pop_back();
  EXPECT_THAT(optimizer_->Update(*state_, plan, values_.as<float>(), square_sums),
              testing::IsError(absl::StatusCode::kInternal, "wrong size: plan has 3 parameters"));
}

// f(p) = |p - target|^2 / 2: a known optimum.
TEST_P(OptimizerContractTest, DescendsAQuadratic) {
  const std::vector<float> target = NormalFloats(layout_.arena_size(), 7);
  std::vector<float> p(layout_.arena_size(), 0.0F);
  const auto loss = [&] {
    double sum = 0;
    for (const ParameterLayout::Run& run : layout_.runs()) {
      for (size_t i = run.offset; i < run.offset + run.count; ++i) {
        sum += std::pow(static_cast<double>(p[i] - target[i]), 2);
      }
    }
    return sum;
  };
  const double start = loss();
  const bool learned = !optimizer_->info().weights_hash.empty();

  for (int64_t step = 1; step <= 200; ++step) {
    StepPlan plan = MakePlan(step);
    // A learned optimizer has rates of its own, of which this is a factor.
    for (GroupStep& group : plan.groups) group.learning_rate = learned ? 1 : 0.02;
    for (ParameterStep& part : plan.parameters) part.gradient_scale = 1;
    std::vector<float> gradients(p.size());
    for (size_t i = 0; i < p.size(); ++i) gradients[i] = p[i] - target[i];
    const Answer answer = Update(plan, gradients);
    const UpdateRule rule = optimizer_->Rule(plan.groups[0]);
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] = p[i] * static_cast<float>(1 - rule.decay) +
             static_cast<float>(rule.scale) * answer.updates[i];
    }
  }

  // How far a learned one comes in so few steps is a matter of its training.
  EXPECT_LT(loss(), (learned ? 1 : 0.05) * start);
}

TEST(OptimizerMemoryTest, SaysThatMemoryIsExhausted) {
  std::vector<ParameterSpec> huge(1);
  huge[0].name = "huge";
  huge[0].shape = {int64_t{1} << 59};
  const ParameterLayout layout = *ParameterLayout::Create(huge);
  auto backend = kernels::CreateBackend("cpu");
  ASSERT_OK(backend);
  for (const OptimizerFactoryPtr& factory : AllOptimizers().factories()) {
    auto optimizer = factory->Create(**backend);
    ASSERT_OK(optimizer);
    EXPECT_THAT((*optimizer)->Init(layout),
                testing::IsError(absl::StatusCode::kResourceExhausted, "out of memory"))
        << factory->info().name;
  }
}

INSTANTIATE_TEST_SUITE_P(Optimizers, OptimizerContractTest, ::testing::ValuesIn(AllParams()),
                         ParamName);

}  // namespace
}  // namespace mnemosyne::optim
