// Times the step of each optimizer on the CPU backend: state and gradients in memory, one call of
// Optimizer::Update. The argument is the number of parameters, spread over 16 tensors. The counters
// are nanoseconds a parameter, of the mean and of the shortest step, the memory traffic of the mean
// step that it cannot avoid, and the bytes of state a parameter.
//
//   optimizer_bench [Google Benchmark's options] [--models=FOLDER]
//
// FOLDER, `models` unless given, has the learned optimizers that are timed as well.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "optim/optimizer_registry.h"
#include "server/model/model_registry.h"

namespace mnemosyne::optim {
namespace {

constexpr int64_t kTensors = 16;

// Bytes that a step reads and writes for each parameter: gradient, update, and state twice.
constexpr double kBytesOfGradientAndUpdate = 8;

// Keeps the shortest of many times.
class Shortest {
 public:
  template <typename Work>
  void Time(const Work& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    nanoseconds_ = std::min(nanoseconds_, time.count());
  }
  double nanoseconds() const { return nanoseconds_; }

 private:
  double nanoseconds_ = std::numeric_limits<double>::infinity();
};

template <typename T>
T OrDie(absl::StatusOr<T> result) {
  if (result.ok()) return *std::move(result);
  std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
  std::exit(1);
}

void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

// Of a step over `count` parameters that moves `bytes` for each.
void SetCounters(benchmark::State& state, size_t count, double bytes, const Shortest& shortest) {
  using benchmark::Counter;
  const double total = static_cast<double>(count) * static_cast<double>(state.iterations());
  state.counters["ns_per_parameter"] = Counter(1e-9 * total, Counter::kIsRate | Counter::kInvert);
  state.counters["shortest_ns_per_parameter"] = shortest.nanoseconds() / static_cast<double>(count);
  state.counters["bytes_per_second"] = Counter(bytes * total, Counter::kIsRate, Counter::kIs1000);
}

ParameterLayout MakeLayout(int64_t parameter_count,
                           StatePrecision precision = StatePrecision::kFull) {
  std::vector<ParameterSpec> parameters(kTensors);
  for (size_t i = 0; i < parameters.size(); ++i) {
    parameters[i].name = std::to_string(i);
    parameters[i].shape = {parameter_count / kTensors};
  }
  return OrDie(ParameterLayout::Create(std::move(parameters), precision));
}

// A step's updates are the next step's gradients here: these values keep their size the same.
HyperparameterValues SteadyHyperparameters(const OptimizerInfo& info) {
  std::map<std::string, double> given;
  if (info.name == "sgd") given = {{"momentum", 0.9}, {"dampening", 0.9}};
  return OrDie(ResolveHyperparameters(info.hyperparameters, given, {}));
}

void Update(benchmark::State& state, const OptimizerFactory& factory,
            const kernels::CpuOptions& options, StatePrecision precision = StatePrecision::kFull) {
  const OptimizerInfo& info = factory.info();
  const auto backend = OrDie(kernels::CreateBackend("cpu", options));
  const auto optimizer = OrDie(factory.Create(*backend));
  const ParameterLayout layout = MakeLayout(state.range(0), precision);
  const auto optimizer_state = OrDie(optimizer->Init(layout));
  const auto values = OrDie(backend->Allocate(layout.arena_size() * sizeof(float)));
  for (size_t i = 0; i < layout.arena_size(); ++i) {
    values.as<float>()[i] = static_cast<float>(i % 1001) / 1000 - 0.5F;
  }
  StepPlan plan;
  plan.parameters.resize(kTensors);
  plan.groups = {{1, SteadyHyperparameters(info)}};
  std::vector<double> square_sums(kTensors);

  Shortest shortest;
  for (auto _ : state) {
    ++plan.step;
    for (ParameterStep& part : plan.parameters) part.clock = plan.step;
    shortest.Time(
        [&] { OrDie(optimizer->Update(*optimizer_state, plan, values.as<float>(), square_sums)); });
  }
  SetCounters(state, layout.element_count(),
              kBytesOfGradientAndUpdate + 2 * info.state_bytes_per_element, shortest);
  state.counters["state_bytes_per_parameter"] = static_cast<double>(optimizer->StateBytes(layout)) /
                                                static_cast<double>(layout.element_count());
}

void Measure(benchmark::State& state) {
  const auto backend = OrDie(kernels::CreateBackend("cpu"));
  const ParameterLayout layout = MakeLayout(state.range(0));
  const auto values = OrDie(backend->Allocate(layout.arena_size() * sizeof(float)));
  std::vector<kernels::Segment> segments;
  for (const ParameterLayout::Run& run : layout.runs()) segments.push_back({run.offset, run.count});
  std::vector<kernels::GradientStatistics> statistics(kTensors);

  Shortest shortest;
  for (auto _ : state) {
    shortest.Time([&] {
      OrDie(backend->MeasureGradients({segments, values.as<float>(), statistics}));
    });
  }
  SetCounters(state, layout.element_count(), sizeof(float), shortest);
}

void Sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->RangeMultiplier(10)->Range(10'000, 100'000'000)->UseRealTime();
}

// An element of a learned optimizer costs thousands of operations and hundreds of bytes.
void LearnedSizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->RangeMultiplier(10)->Range(10'000, 10'000'000)->UseRealTime();
}

// Learned ones with their version.
std::string NameOf(const OptimizerInfo& info) {
  if (info.weights_hash.empty()) return std::string(info.name);
  return fmt::format("{}_{}", info.name, info.version);
}

void RegisterAll(const OptimizerRegistry& optimizers) {
  for (const OptimizerFactoryPtr& factory : optimizers.factories()) {
    const OptimizerInfo& info = factory->info();
    const bool learned = !info.weights_hash.empty();
    const std::string name = NameOf(info);
    benchmark::RegisterBenchmark(name.c_str(), [factory](benchmark::State& state) {
      Update(state, *factory, {});
    })->Apply(learned && !info.has_half_state ? LearnedSizes : Sizes);
    if (!info.has_half_state) continue;
    benchmark::RegisterBenchmark((name + "_half").c_str(), [factory](benchmark::State& state) {
      Update(state, *factory, {}, StatePrecision::kHalf);
    })->Apply(Sizes);
  }
  // What an instruction set is worth where memory does not hide it.
  for (const char* isa : {"baseline", "avx2", "avx512"}) {
    const kernels::CpuOptions options = {.threads = 1, .isa = isa};
    if (!kernels::CreateBackend("cpu", options).ok()) continue;
    for (const OptimizerFactoryPtr& factory : optimizers.factories()) {
      if (factory->info().weights_hash.empty() && factory->info().name != "adamw") continue;
      benchmark::RegisterBenchmark(
          fmt::format("{}_{}_1_thread", NameOf(factory->info()), isa).c_str(),
          [factory, options](benchmark::State& state) { Update(state, *factory, options); })
          ->Arg(100'000)
          ->UseRealTime();
    }
  }
  benchmark::RegisterBenchmark("measure_gradients", Measure)->Apply(Sizes);
}

}  // namespace
}  // namespace mnemosyne::optim

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::string folder = "models";
  constexpr std::string_view kModels = "--models=";
  if (argc == 2 && std::string_view(argv[1]).substr(0, kModels.size()) == kModels) {
    folder = argv[1] + kModels.size();
    argc = 1;
  }
  mnemosyne::server::ModelRegistry models({folder});
  models.Reload();
  mnemosyne::optim::RegisterAll(*models.optimizers());
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
