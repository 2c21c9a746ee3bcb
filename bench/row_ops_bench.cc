// Times the ops over rows on the CPU backend, at the sizes of a learned optimizer's tokens. The
// argument is the number of rows; the counters are nanoseconds a row, and multiply-adds a second.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace mnemosyne::kernels {
namespace {

constexpr size_t kWidth = 32;  // Of a token.
constexpr AttentionSizes kSizes = {16, 16};
constexpr size_t kGroup = 32;  // Cells of a chunk.

void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

// Numbers that all ops read and write.
struct Memory {
  std::vector<float> x, weights, y, phi, values, content, normalizer;
  std::vector<float> discounts{0.9F}, betas;
  std::vector<size_t> starts;

  explicit Memory(size_t rows)
      : x(rows * kWidth, 0.1F),
        weights(kWidth * kWidth, 0.01F),
        y(rows * kWidth),
        phi(rows * kSizes.features, 0.5F),
        values(rows * kSizes.width, 0.3F),
        content(rows * kSizes.features * kSizes.width),
        normalizer(rows * kSizes.features),
        betas(rows, 0.1F) {
    for (size_t row = 0; row < rows; row += kGroup) starts.push_back(row);
    starts.push_back(rows);
  }

  MemoryArgs Args(size_t rows) {
    return {
        rows,           1,       1, kSizes, discounts.data(), phi.data(), phi.data(), values.data(),
        content.data(), y.data()};
  }
};

void Time(benchmark::State& state, size_t multiply_adds, const CpuOptions& options,
          const std::function<absl::Status(Backend&, Memory&, size_t)>& run) {
  const auto rows = static_cast<size_t>(state.range(0));
  auto backend = CreateBackend("cpu", options);
  OrDie(backend.status());
  Memory memory(rows);
  for (auto _ : state) OrDie(run(**backend, memory, rows));
  using benchmark::Counter;
  const double total = static_cast<double>(rows) * static_cast<double>(state.iterations());
  state.counters["ns_per_row"] = Counter(1e-9 * total, Counter::kIsRate | Counter::kInvert);
  state.counters["multiply_adds"] =
      Counter(total * static_cast<double>(multiply_adds), Counter::kIsRate, Counter::kIs1000);
}

void Register(const char* name, size_t multiply_adds,
              const std::function<absl::Status(Backend&, Memory&, size_t)>& run) {
  for (const char* isa : {"baseline", "avx2", "avx512", "auto"}) {
    const CpuOptions options = {.threads = std::string(isa) == "auto" ? 0 : 1, .isa = isa};
    if (!CreateBackend("cpu", options).ok()) continue;
    const std::string suffix = options.threads == 1 ? fmt::format("_{}_1_thread", isa) : "";
    benchmark::RegisterBenchmark(
        (name + suffix).c_str(),
        [=](benchmark::State& state) { Time(state, multiply_adds, options, run); })
        ->Arg(1'000)
        ->Arg(100'000)
        ->UseRealTime();
  }
}

void RegisterAll() {
  Register("dense_32_32_tanh", kWidth * kWidth, [](Backend& backend, Memory& m, size_t rows) {
    return backend.DenseLayer({rows,
                               {kWidth, kWidth, Activation::kTanh, false},
                               {m.x.data(), kWidth},
                               m.weights.data(),
                               nullptr,
                               {m.y.data(), kWidth}});
  });
  Register("favor_plus_32_16", kWidth * kSizes.features,
           [](Backend& backend, Memory& m, size_t rows) {
             return backend.FeatureMap(
                 {rows,
                  {FeatureMapShape::kExponential, kWidth, kSizes.features, 0.25F, 0},
                  {m.x.data(), kWidth},
                  m.weights.data(),
                  nullptr,
                  {m.phi.data(), kSizes.features}});
           });
  Register("attention_16_16", 2 * kSizes.features * (kSizes.width + 1),
           [](Backend& backend, Memory& m, size_t) {
             return backend.BidirectionalAttention({m.starts,
                                                    kSizes,
                                                    {m.phi.data(), kSizes.features},
                                                    {m.phi.data(), kSizes.features},
                                                    {m.values.data(), kSizes.width},
                                                    nullptr,
                                                    {m.y.data(), kSizes.width}});
           });
  Register("additive_memory_16_16", 2 * kSizes.features * (kSizes.width + 1),
           [](Backend& backend, Memory& m, size_t rows) {
             return backend.AdditiveMemory({m.Args(rows), m.normalizer.data()});
           });
  Register("delta_memory_16_16", 3 * kSizes.features * kSizes.width,
           [](Backend& backend, Memory& m, size_t rows) {
             return backend.DeltaMemory({m.Args(rows), m.betas.data()});
           });
}

}  // namespace
}  // namespace mnemosyne::kernels

int main(int argc, char** argv) {
  mnemosyne::kernels::RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
