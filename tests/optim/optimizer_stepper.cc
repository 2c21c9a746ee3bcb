// Takes optimizer steps for a test in another language:
//
//   optimizer_stepper OPTIMIZER ISA SIZE[,SIZE...] [HYPERPARAMETER=VALUE...]
//
// Reads the gradients of a step, all parameters of the given sizes one after the other as float32,
// from standard input; writes decay and scale as float64 and the updates as float32 to standard
// output; goes on until the input ends. Exits with 77 if the machine lacks the instruction set.
#include <cstdio>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "optim/optimizer_registry.h"

namespace mnemosyne::optim {
namespace {

constexpr int kSkipped = 77;

absl::StatusOr<ParameterLayout> ParseLayout(const std::string& sizes) {
  std::vector<ParameterSpec> parameters;
  std::istringstream stream(sizes);
  for (std::string size; std::getline(stream, size, ',');) {
    ParameterSpec parameter;
    parameter.name = fmt::format("p{}", parameters.size());
    parameter.shape = {std::stoll(size)};
    parameters.push_back(parameter);
  }
  return ParameterLayout::Create(std::move(parameters));
}

bool ReadGradients(const ParameterLayout& layout, float* values) {
  for (const ParameterLayout::Run& run : layout.runs()) {
    if (std::fread(values + run.offset, sizeof(float), run.count, stdin) != run.count) return false;
  }
  return true;
}

void WriteUpdates(const ParameterLayout& layout, const UpdateRule& rule, const float* values) {
  std::fwrite(&rule.decay, sizeof(double), 1, stdout);
  std::fwrite(&rule.scale, sizeof(double), 1, stdout);
  for (const ParameterLayout::Run& run : layout.runs()) {
    std::fwrite(values + run.offset, sizeof(float), run.count, stdout);
  }
  std::fflush(stdout);
}

absl::Status TakeSteps(const std::vector<std::string>& arguments) {
  if (arguments.size() < 3) return InvalidArgument("expected OPTIMIZER ISA SIZES");
  std::map<std::string, double> given;
  for (size_t i = 3; i < arguments.size(); ++i) {
    const size_t sign = arguments[i].find('=');
    given[arguments[i].substr(0, sign)] = std::stod(arguments[i].substr(sign + 1));
  }
  kernels::CpuOptions options;
  options.isa = arguments[1];
  MNEMO_ASSIGN_OR_RETURN(const auto backend, kernels::CreateBackend("cpu", options));
  MNEMO_ASSIGN_OR_RETURN(const auto factory, OptimizerRegistry().Find(arguments[0], ""));
  MNEMO_ASSIGN_OR_RETURN(const auto optimizer, factory->Create(*backend));
  MNEMO_ASSIGN_OR_RETURN(const ParameterLayout layout, ParseLayout(arguments[2]));
  MNEMO_ASSIGN_OR_RETURN(const auto state, optimizer->Init(layout));
  MNEMO_ASSIGN_OR_RETURN(const auto arena, backend->Allocate(layout.arena_size() * sizeof(float)));
  MNEMO_ASSIGN_OR_RETURN(HyperparameterValues hyperparameters,
                         ResolveHyperparameters(optimizer->info().hyperparameters, given, {}));

  StepPlan plan;
  plan.parameters.resize(layout.parameters().size());
  plan.groups = {{hyperparameters.front(), hyperparameters}};
  std::vector<double> square_sums(layout.parameters().size());
  while (ReadGradients(layout, arena.as<float>())) {
    ++plan.step;
    for (ParameterStep& part : plan.parameters) part.clock = plan.step;
    MNEMO_RETURN_IF_ERROR(optimizer->Update(*state, plan, arena.as<float>(), square_sums));
    WriteUpdates(layout, optimizer->Rule(plan.groups.front()), arena.as<float>());
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace mnemosyne::optim

int main(int argc, char** argv) {
  const absl::Status status = mnemosyne::optim::TakeSteps({argv + 1, argv + argc});
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return absl::IsFailedPrecondition(status) ? mnemosyne::optim::kSkipped : 1;
}
