// Times the step of optimizers on one device over the parameters of well-known networks: state and
// gradients on the device, one call of Optimizer::Update, which returns when the step is done.
//
//   device_bench --device cuda:0 [--optimizer NAME ...] [--set NAME ...] [--models FOLDER]
//                [--bits 16] [--seconds 2] [--steps N] [--shapes] [--sessions N]
//
// Prints a line of JSON for each pair, of the newest version, and another for a state of 16 bits
// where the optimizer has one: the set, the optimizer, its parameters and tensors, the median and
// the shortest milliseconds of a step, and the bytes of state a parameter. What has no room on the
// device is named on standard error and left out. With --steps it takes so many steps of each pair,
// for a profiler, which sees a kernel of MeasureGradients before and after them. With --shapes
// it prints the sets' shapes and ends. With --sessions it times N sessions of 10,000 parameters
// each in place of the sets: N calls of Update, and one of UpdateMany.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "bench/tensor_sets.h"
#include "kernels/backend.h"
#include "optim/optimizer_registry.h"
#include "server/model/model_registry.h"
#include "server/telemetry/log.h"

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

std::vector<float> MakeGradients(const TensorSet& set) {
  std::vector<float> gradients(MakeLayout(set, optim::StatePrecision::kFull).arena_size());
  for (size_t i = 0; i < gradients.size(); ++i) {
    gradients[i] = static_cast<float>(i * 2654435761U % 1001) / 1000 - 0.5F;
  }
  return gradients;
}

// Launches a kernel that no step has.
absl::Status Mark(kernels::Backend& backend, size_t count, const kernels::Buffer& values) {
  const kernels::Segment all[] = {{.offset = 0, .count = count}};
  kernels::GradientStatistics statistics[1];
  return backend.MeasureGradients(
      {.segments = all, .values = values.as<float>(), .statistics = statistics});
}

// How long to go on: for `steps`, or, if that is 0, for `seconds` after a warm-up.
struct Extent {
  double seconds = 0;
  size_t steps = 0;
};

// The set's gradients, as MakeGradients() has them. ResourceExhausted if the device has no room.
absl::StatusOr<nlohmann::json> Time(const optim::OptimizerFactory& factory,
                                    kernels::Backend& backend, const TensorSet& set,
                                    std::span<const float> gradients,
                                    optim::StatePrecision precision, const Extent& extent) {
  using Clock = std::chrono::steady_clock;
  MNEMO_ASSIGN_OR_RETURN(const auto optimizer, factory.Create(backend));
  const optim::ParameterLayout layout = MakeLayout(set, precision);
  MNEMO_ASSIGN_OR_RETURN(const auto state, optimizer->Init(layout));
  const size_t bytes = layout.arena_size() * sizeof(float);
  MNEMO_ASSIGN_OR_RETURN(const kernels::Buffer values, backend.Allocate(bytes));
  const auto host = reinterpret_cast<const std::byte*>(gradients.data());
  optim::StepPlan plan;
  plan.parameters.resize(layout.parameters().size());
  plan.groups = {{1, OrDie(optim::ResolveHyperparameters(factory.info().hyperparameters, {}, {}))}};
  std::vector<double> square_sums(plan.parameters.size());

  if (extent.steps > 0) MNEMO_RETURN_IF_ERROR(Mark(backend, layout.arena_size(), values));
  std::vector<double> times;
  const size_t warm_up = extent.steps > 0 ? 0 : 3;
  const size_t least = extent.steps > 0 ? extent.steps : 5;
  const auto end = Clock::now() + std::chrono::duration<double>(extent.seconds);
  for (size_t i = 0; times.size() < least || (extent.steps == 0 && Clock::now() < end); ++i) {
    // The updates took the gradients' place, and must not shrink to nothing.
    if (i % 20 == 0) MNEMO_RETURN_IF_ERROR(backend.Upload(host, values.data(), bytes));
    ++plan.step;
    for (optim::ParameterStep& part : plan.parameters) part.clock = plan.step;
    const auto start = Clock::now();
    MNEMO_RETURN_IF_ERROR(optimizer->Update(*state, plan, values.as<float>(), square_sums));
    MNEMO_RETURN_IF_ERROR(backend.Synchronize());
    const std::chrono::duration<double, std::milli> time = Clock::now() - start;
    if (i >= warm_up) times.push_back(time.count());
  }
  if (extent.steps > 0) MNEMO_RETURN_IF_ERROR(Mark(backend, layout.arena_size(), values));
  std::sort(times.begin(), times.end());
  const auto count = static_cast<double>(layout.element_count());
  return nlohmann::json{
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

bool IsWanted(const std::vector<std::string>& names, std::string_view name) {
  return names.empty() || std::ranges::find(names, name) != names.end();
}

// Of each wanted optimizer the newest version.
std::vector<optim::OptimizerFactoryPtr> Newest(const optim::OptimizerRegistry& registry,
                                               const std::vector<std::string>& wanted) {
  std::vector<optim::OptimizerFactoryPtr> newest;
  for (const optim::OptimizerFactoryPtr& factory : registry.factories()) {
    if (!IsWanted(wanted, factory->info().name)) continue;
    if (factory == OrDie(registry.Find(factory->info().name, {}))) newest.push_back(factory);
  }
  return newest;
}

void Print(const nlohmann::json& figures) {
  std::printf("%s\n", figures.dump().c_str());
  std::fflush(stdout);
}

void TimeOrSay(const optim::OptimizerFactory& factory, kernels::Backend& backend,
               const TensorSet& set, std::span<const float> gradients,
               optim::StatePrecision precision, const Extent& extent) {
  const auto figures = Time(factory, backend, set, gradients, precision, extent);
  if (figures.ok()) return Print(*figures);
  if (absl::IsUnimplemented(figures.status())) return;
  const std::string why = figures.status().ToString();
  std::fprintf(stderr, "device_bench: %s of %s: %s\n", std::string(factory.info().name).c_str(),
               set.name.c_str(), why.c_str());
  if (!absl::IsResourceExhausted(figures.status())) std::exit(1);
}

int Main(int argc, char** argv) {
  CLI::App app("Times the steps of optimizers over the parameters of well-known networks.");
  std::string device = "cpu", models = "models";
  std::vector<std::string> optimizers, sets;
  Extent extent{.seconds = 2};
  bool shapes = false;
  size_t sessions = 0;
  int bits = 0;
  app.add_option("--device", device, "cpu or cuda:N")->capture_default_str();
  app.add_option("--optimizer", optimizers, "Only these; default all.");
  app.add_option("--set", sets, "Only these sets; default all.");
  app.add_option("--models", models, "Folder of meta-trained weights.")->capture_default_str();
  app.add_option("--bits", bits, "Only a state of so many bits, 16 or 32; default both.");
  app.add_option("--seconds", extent.seconds, "Time for each pair.")->capture_default_str();
  app.add_option("--steps", extent.steps, "So many steps, without a warm-up, in place of a time.");
  app.add_flag("--shapes", shapes, "Print the sets' shapes and end.");
  app.add_option("--sessions", sessions, "Time so many small sessions.");
  CLI11_PARSE(app, argc, argv);
  if (shapes) {
    nlohmann::json all;
    for (const TensorSet& set : AllTensorSets()) all[set.name] = set.shapes;
    std::printf("%s\n", all.dump().c_str());
    return 0;
  }
  server::SetUpLogging(spdlog::level::warn, server::LogFormat::kText);
  server::ModelRegistry registry({models});
  registry.Reload();
  const std::vector<optim::OptimizerFactoryPtr> factories =
      Newest(*registry.optimizers(), optimizers);
  const auto backend = OrDie(kernels::CreateBackend(device));
  if (sessions > 0) {
    for (const optim::OptimizerFactoryPtr& factory : factories) {
      if (absl::IsUnimplemented(factory->Create(*backend).status())) continue;
      Print(TimeSessions(*factory, *backend, sessions, extent.seconds));
    }
    return 0;
  }
  for (const TensorSet& set : AllTensorSets()) {
    if (!IsWanted(sets, set.name)) continue;
    const std::vector<float> gradients = MakeGradients(set);
    for (const optim::OptimizerFactoryPtr& factory : factories) {
      const auto time = [&](optim::StatePrecision precision) {
        TimeOrSay(*factory, *backend, set, gradients, precision, extent);
      };
      if (bits != 16) time(optim::StatePrecision::kFull);
      if (bits != 32 && factory->info().has_half_state) time(optim::StatePrecision::kHalf);
    }
  }
  return 0;
}

}  // namespace
}  // namespace mnemosyne::bench

int main(int argc, char** argv) { return mnemosyne::bench::Main(argc, argv); }
