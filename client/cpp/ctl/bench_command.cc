#include <fmt/format.h>

#include <atomic>
#include <csignal>
#include <memory>

#include "base/error.h"
#include "base/status_macros.h"
#include "client/cpp/ctl/command.h"
#include "client/cpp/ctl/json.h"
#include "client/cpp/ctl/step_benchmark.h"
#include "client/cpp/ctl/text.h"

namespace mnemosyne::ctl {
namespace {

constexpr double kElementsMax = 1e11;

// The daemon clears all memory of a large session before it answers.
constexpr double kCallSecondsMin = 120;

// Set by Ctrl-C: the run ends early and its sessions are deleted.
std::atomic<bool> stop_asked = false;
static_assert(std::atomic<bool>::is_always_lock_free);

// Numbers as they are typed, so that `--parameters 1e6` is understood.
struct Arguments {
  double elements = 1e6;
  double tensors = 100;
  std::string encoding = "float32";
  StepBenchmarkOptions benchmark;
};

absl::Status Complete(Arguments& arguments) {
  if (arguments.tensors > arguments.elements) {
    return UsageError(fmt::format("--tensors {} is more than --parameters {}", arguments.tensors,
                                  arguments.elements));
  }
  StepBenchmarkOptions& benchmark = arguments.benchmark;
  benchmark.elements = static_cast<int64_t>(arguments.elements);
  benchmark.tensors = static_cast<int64_t>(arguments.tensors);
  for (const DataType type : {DataType::kFloat32, DataType::kBFloat16, DataType::kFloat16}) {
    if (DataTypeName(type) == arguments.encoding) benchmark.encoding = type;
  }
  return absl::OkStatus();
}

nlohmann::ordered_json LatencyToJson(const Latency& latency) {
  return {{"mean", latency.mean},
          {"p50", latency.p50},
          {"p90", latency.p90},
          {"p99", latency.p99},
          {"max", latency.maximum}};
}

void PrintAsJson(const Arguments& arguments, const StepBenchmarkResult& result) {
  const StepBenchmarkOptions& benchmark = arguments.benchmark;
  PrintJson({{"parameters", benchmark.elements},
             {"tensors", benchmark.tensors},
             {"optimizer", benchmark.optimizer},
             {"encoding", arguments.encoding},
             {"streams", benchmark.streams},
             {"steps", result.steps},
             {"seconds", result.seconds},
             {"steps_per_second", result.steps_per_second},
             {"gradient_gb_per_second", result.gradient_gb_per_second},
             {"update_gb_per_second", result.update_gb_per_second},
             {"state_bytes", result.state_bytes},
             {"step_seconds", LatencyToJson(result.step)},
             {"receive_seconds", LatencyToJson(result.receive)},
             {"queue_seconds", LatencyToJson(result.queue)},
             {"compute_seconds", LatencyToJson(result.compute)}});
}

std::vector<std::string> LatencyRow(const std::string& name, const Latency& latency) {
  return {name, FormatSeconds(latency.p50), FormatSeconds(latency.p90), FormatSeconds(latency.p99),
          FormatSeconds(latency.maximum)};
}

void PrintForPeople(const Arguments& arguments, const StepBenchmarkResult& result) {
  const StepBenchmarkOptions& benchmark = arguments.benchmark;
  fmt::print("{} with {} parameters in {} tensors, {}, {} stream{}\n", benchmark.optimizer,
             FormatCount(benchmark.elements), FormatCount(benchmark.tensors), arguments.encoding,
             benchmark.streams, benchmark.streams == 1 ? "" : "s");
  fmt::print("{} steps in {}: {:.1f} steps/s\n", FormatCount(result.steps),
             FormatSeconds(result.seconds), result.steps_per_second);
  fmt::print("{:.3f} GB/s of gradients, {:.3f} GB/s of updates\n\n", result.gradient_gb_per_second,
             result.update_gb_per_second);
  fmt::print("{}", FormatTable({{"TIME", "P50", "P90", "P99", "MAX"},
                                LatencyRow("step", result.step),
                                LatencyRow("  receive", result.receive),
                                LatencyRow("  queue", result.queue),
                                LatencyRow("  compute", result.compute)}));
}

absl::Status Run(const GlobalOptions& options, Arguments arguments) {
  MNEMO_RETURN_IF_ERROR(Complete(arguments));
  MNEMO_ASSIGN_OR_RETURN(const auto client, Connect(options, kCallSecondsMin));
  std::signal(SIGINT, [](int) { stop_asked = true; });
  std::signal(SIGTERM, [](int) { stop_asked = true; });
  MNEMO_ASSIGN_OR_RETURN(const auto result,
                         RunStepBenchmark(*client, arguments.benchmark, stop_asked));
  if (options.json) {
    PrintAsJson(arguments, result);
  } else {
    PrintForPeople(arguments, result);
  }
  return absl::OkStatus();
}

}  // namespace

void AddBenchCommand(CLI::App& app, const GlobalOptions& options, Action& action) {
  auto* const command = app.add_subcommand(
      "bench", "Make a session, step it as fast as it goes, show rates and times, delete it");
  const auto arguments = std::make_shared<Arguments>();
  StepBenchmarkOptions& benchmark = arguments->benchmark;
  command->add_option("--parameters", arguments->elements, "Elements of the model, such as 1e6")
      ->check(CLI::Range(1.0, kElementsMax))
      ->capture_default_str();
  command->add_option("--tensors", arguments->tensors, "Tensors that hold them, of equal size")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
  command->add_option("--optimizer", benchmark.optimizer, "The optimizer")->capture_default_str();
  command->add_option("--encoding", arguments->encoding, "How elements travel, both ways")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}))
      ->capture_default_str();
  command->add_option("--streams", benchmark.streams, "Sessions stepped at once, a thread each")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--warmup", benchmark.warmup_steps, "First steps that are not measured")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  auto* const steps =
      command->add_option("--steps", benchmark.steps, "Steps to measure, however long they take")
          ->check(CLI::Range(1, 1'000'000'000));
  command->add_option("--seconds", benchmark.seconds, "How long to measure")
      ->check(CLI::Range(0.001, 1e6))
      ->excludes(steps)
      ->capture_default_str();
  command->callback([&options, &action, arguments, steps] {
    if (steps->count() > 0) arguments->benchmark.seconds = 0;
    action = [&options, arguments] { return Run(options, *arguments); };
  });
}

}  // namespace mnemosyne::ctl
