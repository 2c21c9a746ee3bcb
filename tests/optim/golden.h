// Golden vectors: what metatrain's golden.py computed with exported weights.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/safetensors.h"
#include "optim/parameter_spec.h"

namespace mnemosyne::optim {

// Values 0 to `count - 1` of a stream of the counter-based generator, in [-1, 1).
std::vector<float> CounterValues(uint32_t stream, size_t count);

// The vectors of one model. Tensors are as an optimizer sees them: those that the specification
// calls transposed have their axes reversed.
class GoldenVectors {
 public:
  // Those of `name`, `version` and `plan` in tests/golden; nothing if there are none.
  static std::optional<GoldenVectors> Load(std::string_view name, std::string_view version,
                                           std::string_view plan = "");

  int64_t steps() const { return steps_; }
  size_t chunk_size() const { return chunk_size_; }
  const std::vector<ParameterSpec>& parameters() const { return parameters_; }

  // The loss that is told at step 0, 1 and so on.
  static double Loss(int64_t step) { return 2.0 / (1.0 + static_cast<double>(step)); }

  // The gradient of a parameter at a step.
  std::vector<float> Gradient(int64_t step, size_t parameter) const;

  // Those elements of a parameter's update at a step that are kept.
  std::vector<float> Update(int64_t step, size_t parameter) const;

  // The same elements of a whole update.
  std::vector<float> Sample(size_t parameter, const std::vector<float>& update) const;

  // A leaf of the state after the last step, such as `log_step`; of the plan that keeps it.
  std::vector<float> After(const std::string& leaf) const { return Tensor("after." + leaf); }

  // What a parameter is multiplied with at a step.
  float Keep(int64_t step, size_t parameter) const;

 private:
  explicit GoldenVectors(Safetensors file) : file_(std::move(file)) {}

  std::vector<float> Tensor(const std::string& name) const;

  Safetensors file_;
  int64_t steps_ = 0;
  uint32_t streams_ = 0;  // Streams of a step.
  size_t chunk_size_ = 0;
  size_t stride_ = 0;  // 0 where updates are kept whole, each in a tensor of its own.
  std::vector<ParameterSpec> parameters_;
  std::vector<bool> transposed_;
};

// |a - b| / |b|, in double.
double RelativeDistance(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace mnemosyne::optim
