// A learned optimizer at work, for tests.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "optim/optimizer_factory.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {

// The backend of an instruction set of the CPU, or of a GPU where `where` is "cuda". Precondition
// of what fails: the machine has no such thing.
inline absl::StatusOr<std::unique_ptr<kernels::Backend>> BackendOf(const std::string& where) {
  return where == "cuda" ? kernels::CreateBackend("cuda:0")
                         : kernels::CreateBackend("cpu", {.threads = 2, .isa = where});
}

// Takes steps with gradients a parameter at a time, all hyper-parameters at their defaults.
class LearnedRun {
 public:
  LearnedRun(const OptimizerFactoryPtr& factory, std::vector<ParameterSpec> parameters,
             const kernels::CpuOptions& options = {.threads = 2},
             const std::map<std::string, double>& hyperparameters = {},
             StatePrecision precision = StatePrecision::kFull)
      : LearnedRun(factory, std::move(parameters), *kernels::CreateBackend("cpu", options),
                   hyperparameters, precision) {}

  LearnedRun(const OptimizerFactoryPtr& factory, std::vector<ParameterSpec> parameters,
             std::unique_ptr<kernels::Backend> backend,
             const std::map<std::string, double>& hyperparameters = {},
             StatePrecision precision = StatePrecision::kFull)
      : factory_(factory),
        layout_(*ParameterLayout::Create(std::move(parameters), precision)),
        backend_(std::move(backend)),
        optimizer_(*factory->Create(*backend_)),
        state_(*optimizer_->Init(layout_)),
        values_(*backend_->Allocate(layout_.arena_size() * sizeof(float))) {
    const auto table = factory->info().hyperparameters;
    const HyperparameterValues values = *ResolveHyperparameters(table, hyperparameters, {});
    plan_.parameters.resize(layout_.parameters().size());
    plan_.groups = {{values[0], values}};
  }

  // The updates of a step, scale included.
  std::vector<std::vector<float>> Step(const std::vector<std::vector<float>>& gradients) {
    ++plan_.step;
    for (ParameterStep& part : plan_.parameters) part.clock += part.takes_part ? 1 : 0;
    return Run(gradients, [&](std::vector<double>& sums) {
      return optimizer_->Update(*state_, plan_, values_.as<float>(), sums);
    });
  }

  // The plan of the next step, which has the number, the clocks and what Step changes from the
  // last.
  StepPlan& plan() { return plan_; }

  OptimizerState& state() { return *state_; }
  const Optimizer& optimizer() const { return *optimizer_; }

  // The updates of the last step once more.
  std::vector<std::vector<float>> Replay(const std::vector<std::vector<float>>& gradients) {
    return Run(gradients, [&](std::vector<double>& sums) {
      return optimizer_->Replay(*state_, plan_, values_.as<float>(), sums);
    });
  }

  // Takes over what State returned, of a run that has taken `steps` steps with all parameters.
  void SetState(const std::string& bytes, int64_t steps) {
    plan_.step = steps;
    for (ParameterStep& part : plan_.parameters) part.clock = steps;
    size_t start = 0;
    for (const StateTensor& tensor : state_->Tensors()) {
      EXPECT_OK(backend_->Upload(reinterpret_cast<const std::byte*>(bytes.data()) + start,
                                 tensor.data, tensor.byte_count));
      start += tensor.byte_count;
    }
  }

  // All bytes of the state.
  std::string State() const {
    std::string bytes;
    for (const StateTensor& tensor : state_->Tensors()) bytes += Bytes(tensor);
    return bytes;
  }

  // Those of one of its tensors.
  std::string Bytes(const StateTensor& tensor) const {
    std::string bytes(tensor.byte_count, '\0');
    EXPECT_OK(backend_->Download(tensor.data, reinterpret_cast<std::byte*>(bytes.data()),
                                 tensor.byte_count));
    return bytes;
  }

 private:
  template <typename Take>
  std::vector<std::vector<float>> Run(const std::vector<std::vector<float>>& gradients,
                                      const Take& take) {
    std::vector<float> values(layout_.arena_size());
    for (size_t i = 0; i < gradients.size(); ++i) {
      std::copy(gradients[i].begin(), gradients[i].end(), values.data() + layout_.runs()[i].offset);
    }
    auto* const bytes = reinterpret_cast<std::byte*>(values.data());
    EXPECT_OK(backend_->Upload(bytes, values_.data(), values_.size()));
    std::vector<double> sums(plan_.parameters.size());
    EXPECT_OK(take(sums));
    EXPECT_OK(backend_->Download(values_.data(), bytes, values_.size()));
    const auto scale = static_cast<float>(optimizer_->Rule(plan_.groups[0]).scale);
    std::vector<std::vector<float>> updates;
    for (const ParameterLayout::Run& run : layout_.runs()) {
      const float* const first = values.data() + run.offset;
      updates.emplace_back(first, first + run.count);
      for (float& update : updates.back()) update *= scale;
    }
    return updates;
  }

  OptimizerFactoryPtr factory_;
  ParameterLayout layout_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<OptimizerState> state_;
  kernels::Buffer values_;
  StepPlan plan_;
};

}  // namespace mnemosyne::optim
