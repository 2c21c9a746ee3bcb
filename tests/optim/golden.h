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

// Values `first` to `first + count - 1` of a stream of the counter-based generator, in [-1, 1).
std::vector<float> CounterValues(uint32_t stream, size_t count);

// The vectors of one model.
class GoldenVectors {
 public:
  // Those of `name` and `version` in tests/golden; nothing if there are none.
  static std::optional<GoldenVectors> Load(std::string_view name, std::string_view version);

  int64_t steps() const { return steps_; }
  const std::vector<ParameterSpec>& parameters() const { return parameters_; }

  // The gradient of a parameter at step 0, 1 and so on.
  std::vector<float> Gradient(int64_t step, size_t parameter) const;

  // The update of a parameter at that step.
  std::vector<float> Update(int64_t step, size_t parameter) const;

 private:
  explicit GoldenVectors(Safetensors file) : file_(std::move(file)) {}

  Safetensors file_;
  int64_t steps_ = 0;
  int64_t streams_ = 0;  // Streams of the generator a step.
  std::vector<ParameterSpec> parameters_;
};

// |a - b| / |b|, in double.
double RelativeDistance(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace mnemosyne::optim
