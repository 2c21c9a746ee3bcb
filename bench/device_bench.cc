// Times the step of optimizers on one device over the parameters of well-known networks: state and
// gradients on the device, one call of Optimizer::Update, which returns when the step is done.
//
//   device_bench --device cuda:0 [--optimizer NAME ...] [--set NAME ...] [--models FOLDER]
//                [--seconds 2] [--shapes] [--sessions N]
//
// Prints a line of JSON for each pair, and another for a state of 16 bits where the optimizer has
// one: the set, the optimizer, its parameters and tensors, the median and the shortest milliseconds
// of a step, and the bytes of state a parameter. With --shapes it prints the sets' shapes and ends.
// With --sessions it times N sessions of 10,000 parameters each in place of the sets: N calls of
// Update, and one of UpdateMany.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "bench/tensor_sets.h"
#include "kernels/backend.h"
#include "optim/optimizer_registry.h"
#include "server/model/model_registry.h"

namespace mnemosyne::bench {
namespace {

template <typename T>
T OrDie(absl::StatusOr<T> result) {
  if (result.ok()) return *std::move(result);
  std::fprintf(stderr, "device_bench: %s\n", result.status().ToString().c_str());
  std::exit(1);
}

void OrDie(const absl::Status& status) {
  if (!status.ok()) OrDie<int>(status);
}

optim::ParameterLayout MakeLayout(const TensorSet& set, optim::StatePrecision precision) {
  std::vector<optim::ParameterSpec> parameters(set.shapes.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    parameters[i].name = fmt::format("p{}", i);
    parameters[i].shape = set.shapes[i];
  }
  return OrDie(optim::ParameterLayout::Create(std::move(parameters), precision));
}

nlohmann::json Time(const optim::OptimizerFactory& factory, kernels::Backend& backend,
                    const TensorSet& set, optim::StatePrecision precision, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto optimizer = OrDie(factory.Create(backend));
  const optim::ParameterLayout layout = MakeLayout(set, precision);
  const auto state = OrDie(optimizer->Init(layout));
  const size_t bytes = layout.arena_size() * sizeof(float);
  const auto values = OrDie(backend.Allocate(bytes));
  std::vector<float> gradients(layout.arena_size());
  for (size_t i = 0; i < gradients.size(); ++i) {
    gradients[i] = static_cast<float>(i * 2654435761U % 1001) / 1000 - 0.5F;
  }
  const auto host = reinterpret_cast<const std::byte*>(gradients.data());
  optim::StepPlan plan;
  plan.parameters.resize(layout.parameters().size());
  plan.groups = {{1, OrDie(optim::ResolveHyperparameters(factory.info().hyperparameters, {}, {}))}};
  std::vector<double> square_sums(plan.parameters.size());

  std::vector<double> times;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  constexpr int kWarmUp = 3;
  for (int i = 0; i < kWarmUp || Clock::now() < end || times.size() < 5; ++i) {
    // The updates took the gradients' place, and must not shrink to nothing.
    if (i % 20 == 0) OrDie(backend.Upload(host, values.data(), bytes));
    ++plan.step;
    for (optim::ParameterStep& part : plan.parameters) part.clock = plan.step;
    const auto start = Clock::now();
    OrDie(optimizer->Update(*state, plan, values.as<float>(), square_sums));
    OrDie(backend.Synchronize());
    const std::chrono::duration<double, std::milli> time = Clock::now() - start;
    if (i >= kWarmUp) times.push_back(time.count());
  }
  std::sort(times.begin(), times.end());
  const auto count = static_cast<double>(layout.element_count());
  return {
      {"set", set.name},
      {"optimizer", factory.info().name},
      {"version", factory.info().version},
      {"state_bits", precision == optim::StatePrecision::kHalf ? 16 : 32},
      {"device", backend.name()},
      {"parameters", layout.element_count()},
      {"tensors", set.shapes.size()},
      {"median_ms", times[times.size() / 2]},
      {"shortest_ms", times.front()},
      {"steps", times.size()},
      {"state_bytes_per_parameter", static_cast<double>(optimizer->StateBytes(layout)) / count}};
}

// N small sessions, stepped one by one and together.
nlohmann::json TimeSessions(const optim::OptimizerFactory& factory, kernels::Backend& backend,
                            size_t sessions, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto optimizer = OrDie(factory.Create(backend));
  const optim::ParameterLayout layout = MakeLayout(
      {.name = "small", .shapes = {{96, 96}, {96}, {6, 96}, {112}}}, optim::StatePrecision::kFull);
  const size_t bytes = layout.arena_size() * sizeof(float);
  const std::vector<float> gradients(layout.arena_size(), 0.25F);
  std::vector<std::unique_ptr<optim::OptimizerState>> states;
  std::vector<kernels::Buffer> values;
  std::vector<optim::StepPlan> plans(sessions);
  std::vector<std::vector<double>> sums(sessions);
  std::vector<optim::Optimizer::SharedStep> steps;
  for (size_t k = 0; k < sessions; ++k) {
    states.push_back(OrDie(optimizer->Init(layout)));
    values.push_back(OrDie(backend.Allocate(bytes)));
    OrDie(backend.Upload(reinterpret_cast<const std::byte*>(gradients.data()), values[k].data(),
                         bytes));
    plans[k].parameters.resize(layout.parameters().size());
    plans[k].groups = {
        {1, OrDie(optim::ResolveHyperparameters(factory.info().hyperparameters, {}, {}))}};
    sums[k].resize(plans[k].parameters.size());
    steps.push_back({*states[k], plans[k], values[k].as<float>(), sums[k], {}});
  }
  const auto next = [&] {
    for (optim::StepPlan& plan : plans) {
      ++plan.step;
      for (optim::ParameterStep& part : plan.parameters) part.clock = plan.step;
    }
  };
  const auto median = [&](const auto& step) {
    std::vector<double> times;
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    while (Clock::now() < end || times.size() < 5) {
      next();
      const auto start = Clock::now();
      step();
      OrDie(backend.Synchronize());
      const std::chrono::duration<double, std::milli> time = Clock::now() - start;
      times.push_back(time.count());
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  };
  const double apart = median([&] {
    for (const auto& step : steps) {
      OrDie(optimizer->Update(step.state, step.plan, step.values, step.square_sums));
    }
  });
  const double together = median([&] {
    optimizer->UpdateMany(steps);
    for (const auto& step : steps) OrDie(step.status);
  });
  return {{"sessions", sessions},     {"optimizer", factory.info().name},
          {"device", backend.name()}, {"parameters", layout.element_count()},
          {"one_by_one_ms", apart},   {"together_ms", together},
          {"ratio", apart / together}};
}

int Main(int argc, char** argv) {
  CLI::App app("Times the steps of optimizers over the parameters of well-known networks.");
  std::string device = "cpu", models = "models";
  std::vector<std::string> optimizers, sets;
  double seconds = 2;
  bool shapes = false;
  size_t sessions = 0;
  app.add_option("--device", device, "cpu or cuda:N")->capture_default_str();
  app.add_option("--optimizer", optimizers, "Only these; default all.");
  app.add_option("--set", sets, "Only these sets; default all.");
  app.add_option("--models", models, "Folder of meta-trained weights.")->capture_default_str();
  app.add_option("--seconds", seconds, "Time for each pair.")->capture_default_str();
  app.add_flag("--shapes", shapes, "Print the sets' shapes and end.");
  app.add_option("--sessions", sessions, "Time so many small sessions.");
  CLI11_PARSE(app, argc, argv);
  const auto wanted = [](const std::vector<std::string>& names, const std::string& name) {
    return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
  };
  if (shapes) {
    nlohmann::json all;
    for (const TensorSet& set : AllTensorSets()) all[set.name] = set.shapes;
    std::printf("%s\n", all.dump().c_str());
    return 0;
  }
  server::ModelRegistry registry({models});
  registry.Reload();
  const auto backend = OrDie(kernels::CreateBackend(device));
  for (const optim::OptimizerFactoryPtr& factory : registry.optimizers()->factories()) {
    if (sessions == 0 || !wanted(optimizers, std::string(factory->info().name))) continue;
    if (absl::IsUnimplemented(factory->Create(*backend).status())) continue;
    std::printf("%s\n", TimeSessions(*factory, *backend, sessions, seconds).dump().c_str());
    std::fflush(stdout);
  }
  if (sessions > 0) return 0;
  for (const TensorSet& set : AllTensorSets()) {
    if (!wanted(sets, set.name)) continue;
    for (const optim::OptimizerFactoryPtr& factory : registry.optimizers()->factories()) {
      if (!wanted(optimizers, std::string(factory->info().name))) continue;
      const auto there = factory->Create(*backend);
      if (absl::IsUnimplemented(there.status())) continue;
      for (const auto precision : {optim::StatePrecision::kFull, optim::StatePrecision::kHalf}) {
        if (precision == optim::StatePrecision::kHalf && !factory->info().has_half_state) continue;
        std::printf("%s\n", Time(*factory, *backend, set, precision, seconds).dump().c_str());
        std::fflush(stdout);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace mnemosyne::bench

int main(int argc, char** argv) { return mnemosyne::bench::Main(argc, argv); }
