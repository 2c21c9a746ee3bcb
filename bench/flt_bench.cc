// Times FLT attention on a device: batch 1, 8 heads of 64, 64 features, 32 waves in the exponent,
// tensors on the device, one call of Backend::FltAttention, which returns when the outputs are
// written. With --backward, a call for normalizers and one of Backend::FltAttentionBackward, for
// the gradients of queries, keys, values and waves.
//
//   flt_bench --device cuda:0 [--length N ...] [--type bfloat16 ...] [--seconds 1] [--backward]
//       [--calls N]
//
// Without --calls a figure is made of all calls of that many seconds, after a few to warm up.
// Prints a line of JSON for each length, type and causality: the median and the shortest
// milliseconds of a call, or of both, the bytes that the tensors which are read or written have
// together, and, up to 16,384 rows, the greatest difference from the CPU's outputs, or its
// gradients of queries, keys and values, over their root mean square.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "base/data_type.h"
#include "kernels/backend.h"
#include "kernels/flt/rpe.h"

namespace mnemosyne::bench {
namespace {

constexpr size_t kHeads = 8, kDim = 64, kFeatures = 64, kWaves = 32;
constexpr size_t kComparedMax = 16384;  // Rows that the CPU is given, too.
constexpr size_t kChunk = size_t{1} << 20;

template <typename T>
T OrDie(absl::StatusOr<T> result) {
  if (result.ok()) return *std::move(result);
  std::fprintf(stderr, "flt_bench: %s\n", result.status().ToString().c_str());
  std::exit(1);
}

void OrDie(const absl::Status& status) {
  if (!status.ok()) OrDie<int>(status);
}

kernels::FltKernel MakeKernel() {
  kernels::RpeSpec spec;
  spec.kind = kernels::RpeKind::kShiftInvariant;
  spec.heads = kHeads;
  spec.waves = kWaves;
  spec.base = kernels::DrawBaseFrequencies(kWaves, 1, 7);
  for (size_t h = 0; h < kHeads; ++h) spec.parameters.insert(spec.parameters.end(), {0.3F, -4.0F});
  const kernels::FltConfig config = {
      .heads = kHeads, .dim = kDim, .value_dim = kDim, .features = kFeatures};
  const auto shape = OrDie(kernels::FltProjectionOf(config, kWaves));
  return OrDie(kernels::MakeFltKernel(
      config, OrDie(kernels::MakeWaves(spec)),
      kernels::DrawProjection(shape.rows, shape.inputs, kernels::RowNorms::kRoot, 3)));
}

// A tensor of normal numbers, some million of them again and again.
kernels::Buffer MakeTensor(kernels::Backend& backend, size_t count, DataType type, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(std::min(count, kChunk));
  for (float& number : numbers) number = 0.5F * normal(random);
  std::vector<std::byte> bytes(numbers.size() * ElementSize(type));
  EncodeElements(type, numbers.data(), bytes.data(), numbers.size());
  auto buffer = OrDie(backend.Allocate(count * ElementSize(type)));
  for (size_t at = 0; at < buffer.size(); at += bytes.size()) {
    OrDie(backend.Upload(bytes.data(), buffer.data() + at,
                         std::min(bytes.size(), buffer.size() - at)));
  }
  return buffer;
}

// The tensors of a call on one device.
struct Problem {
  Problem(kernels::Backend& backend, const kernels::FltKernel& kernel, size_t length, DataType type,
          bool causal) {
    const size_t count = kHeads * length * kDim;
    q = MakeTensor(backend, count, type, 1);
    k = MakeTensor(backend, count, type, 2);
    v = MakeTensor(backend, count, type, 3);
    out = OrDie(backend.Allocate(count * ElementSize(type)));
    std::vector<float> at(length);
    for (size_t i = 0; i < length; ++i) at[i] = static_cast<float>(i);
    positions = OrDie(backend.Allocate(length * sizeof(float)));
    OrDie(backend.Upload(reinterpret_cast<const std::byte*>(at.data()), positions.data(),
                         positions.size()));
    args.kernel = &kernel;
    args.rows.length = length;
    args.rows.causal = causal;
    args.rows.positions = positions.as<const float>();
    args.type = type;
    args.q = kernels::Dense(q.data(), kHeads, length, kDim);
    args.k = kernels::Dense(k.data(), kHeads, length, kDim);
    args.v = kernels::Dense(v.data(), kHeads, length, kDim);
    args.out = kernels::DenseOut(out.data(), kHeads, length, kDim);
  }

  // Makes a call of the backward pass, too.
  void PrepareBackward(kernels::Backend& backend) {
    const size_t length = args.rows.length, count = kHeads * length * kDim;
    normalizers = OrDie(backend.Allocate(kHeads * length * 2 * sizeof(float)));
    upstream = MakeTensor(backend, count, args.type, 4);
    for (kernels::Buffer& gradient : gradients) {
      gradient = OrDie(backend.Allocate(count * ElementSize(args.type)));
    }
    args.normalizers = normalizers.as<float>();
    const auto to = [&](size_t i) {
      return kernels::DenseOut(gradients[i].data(), kHeads, length, kDim);
    };
    of_frequencies.resize(kHeads * kWaves);
    of_real = of_imaginary = of_frequencies;
    of_constant.resize(kHeads);
    backward.kernel = args.kernel;
    backward.rows = args.rows;
    backward.type = args.type;
    backward.q = args.q;
    backward.k = args.k;
    backward.v = args.v;
    backward.out = kernels::Dense(out.data(), kHeads, length, kDim);
    backward.normalizers = args.normalizers;
    backward.out_gradient = kernels::Dense(upstream.data(), kHeads, length, kDim);
    backward.q_gradient = to(0);
    backward.k_gradient = to(1);
    backward.v_gradient = to(2);
    backward.frequency_gradient = of_frequencies.data();
    backward.real_gradient = of_real.data();
    backward.imaginary_gradient = of_imaginary.data();
    backward.constant_gradient = of_constant.data();
  }

  void Run(kernels::Backend& backend) const {
    OrDie(backend.FltAttention(args));
    if (backward.kernel != nullptr) OrDie(backend.FltAttentionBackward(backward));
    OrDie(backend.Synchronize());
  }

  std::vector<float> Numbers(kernels::Backend& backend, const kernels::Buffer& from) const {
    std::vector<std::byte> bytes(from.size());
    OrDie(backend.Download(from.data(), bytes.data(), bytes.size()));
    std::vector<float> numbers(bytes.size() / ElementSize(args.type));
    DecodeElements(args.type, bytes.data(), numbers.data(), numbers.size());
    return numbers;
  }

  // Bytes that have to move: tensors are read once and written once.
  size_t Bytes() const {
    const size_t forward = 4 * out.size();
    return backward.kernel == nullptr ? forward : forward + 8 * out.size();
  }

  kernels::Buffer q, k, v, out, positions, normalizers, upstream, gradients[3];
  std::vector<float> of_frequencies, of_real, of_imaginary, of_constant;
  kernels::FltAttentionArgs args;
  kernels::FltBackwardArgs backward;
};

double Difference(const std::vector<float>& actual, const std::vector<float>& expected) {
  double most = 0, square = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double e = static_cast<double>(expected[i]);
    const double distance = std::abs(static_cast<double>(actual[i]) - e);
    if (!(distance <= most)) most = distance;  // NaN stays.
    square += e * e;
  }
  return most / std::sqrt(square / static_cast<double>(actual.size()));
}

nlohmann::json Time(kernels::Backend& backend, kernels::Backend& cpu,
                    const kernels::FltKernel& kernel, size_t length, DataType type, bool causal,
                    bool backward, double seconds, size_t calls) {
  using Clock = std::chrono::steady_clock;
  Problem problem(backend, kernel, length, type, causal);
  if (backward) problem.PrepareBackward(backend);
  std::vector<double> times;
  const int warm_up = calls > 0 ? 0 : 3;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  const auto goes_on = [&](int i) {
    if (calls > 0) return times.size() < calls;
    return i < warm_up || Clock::now() < end || times.size() < 5;
  };
  for (int i = 0; goes_on(i); ++i) {
    const auto start = Clock::now();
    problem.Run(backend);
    const std::chrono::duration<double, std::milli> time = Clock::now() - start;
    if (i >= warm_up) times.push_back(time.count());
  }
  std::sort(times.begin(), times.end());
  nlohmann::json line = {{"flt", "ours"},
                         {"device", backend.name()},
                         {"length", length},
                         {"type", DataTypeName(type)},
                         {"causal", causal},
                         {"pass", backward ? "forward and backward" : "forward"},
                         {"median_ms", times[times.size() / 2]},
                         {"shortest_ms", times.front()},
                         {"calls", times.size()},
                         {"bytes", problem.Bytes()}};
  if (length <= kComparedMax) {
    Problem same(cpu, kernel, length, type, causal);
    if (backward) same.PrepareBackward(cpu);
    same.Run(cpu);
    double most =
        backward ? 0
                 : Difference(problem.Numbers(backend, problem.out), same.Numbers(cpu, same.out));
    for (size_t i = 0; i < std::size(same.gradients) && backward; ++i) {
      most = std::max(most, Difference(problem.Numbers(backend, problem.gradients[i]),
                                       same.Numbers(cpu, same.gradients[i])));
    }
    line["difference"] = most;
  }
  return line;
}

int Main(int argc, char** argv) {
  CLI::App app("Times FLT attention on a device.");
  std::string device = "cpu";
  std::vector<size_t> lengths = {1024, 4096, 16384, 65536, 262144, 1048576};
  std::vector<std::string> types = {"bfloat16", "float32"};
  double seconds = 1;
  size_t calls = 0;
  app.add_option("--device", device, "cpu or cuda:N")->capture_default_str();
  app.add_option("--length", lengths, "Rows; default 1024 to 1048576.");
  app.add_option("--type", types, "float32, bfloat16 or float16; default the first two.")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}));
  app.add_option("--seconds", seconds, "Time for each figure.")->capture_default_str();
  app.add_option("--calls", calls, "Exactly so many calls for each figure, and no others.");
  bool backward = false;
  app.add_flag("--backward", backward, "Both passes.");
  CLI11_PARSE(app, argc, argv);
  const auto backend = OrDie(kernels::CreateBackend(device));
  const auto cpu = OrDie(kernels::CreateBackend("cpu"));
  const kernels::FltKernel kernel = MakeKernel();
  for (const size_t length : lengths) {
    for (const std::string& name : types) {
      const DataType type = name == "float32"    ? DataType::kFloat32
                            : name == "bfloat16" ? DataType::kBFloat16
                                                 : DataType::kFloat16;
      for (const bool causal : {false, true}) {
        const auto line =
            Time(*backend, *cpu, kernel, length, type, causal, backward, seconds, calls);
        std::printf("%s\n", line.dump().c_str());
        std::fflush(stdout);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace mnemosyne::bench

int main(int argc, char** argv) { return mnemosyne::bench::Main(argc, argv); }
