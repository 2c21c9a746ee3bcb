// The parameters of a client's model: what they are called, their shapes, and where their elements
// lie in the flat arenas that optimizers work on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/data_type.h"

namespace mnemosyne::optim {

// The most dimensions of a parameter.
inline constexpr size_t kRankMax = 8;

// One parameter tensor.
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;                         // Empty for a scalar; each size at least 1.
  DataType data_type = DataType::kFloat32;            // In the client's memory.
  size_t group = 0;                                   // Position among the session's groups.
  std::string role = {};                              // Such as `weight`; empty if unknown.
  std::optional<int32_t> fan_in_axis = std::nullopt;  // Of `shape`.
  std::optional<int64_t> fan_in = std::nullopt;       // Inputs summed into one output; at least 1.
  std::optional<int64_t> fan_out = std::nullopt;      // Outputs that one input feeds; at least 1.
};

// The number of elements of `shape`. InvalidArgument for more than kRankMax dimensions, a size
// below 1, or a product beyond int64.
absl::StatusOr<size_t> ElementCount(std::span<const int64_t> shape);

// How many bits the numbers of a state have that a session keeps for each element.
enum class StatePrecision : uint8_t {
  kFull,  // 32.
  kHalf,  // 16, for optimizers that can; rounding is stochastic and can be replayed.
};

// Where each parameter's elements lie in an arena: one run a parameter, in order, each starting at
// a multiple of kAlignment elements. All arenas of a session (gradients, updates, moments) have
// this layout, so that a step is one pass over a few long arrays. Immutable; any thread.
class ParameterLayout {
 public:
  // Elements to which runs are aligned: 64 bytes of float32.
  static constexpr size_t kAlignment = 16;

  struct Run {
    size_t offset;  // In elements.
    size_t count;   // In elements; at least 1.
  };

  // InvalidArgument for no parameters, an empty or repeated name, or a shape that ElementCount
  // refuses; the message names the parameter.
  static absl::StatusOr<ParameterLayout> Create(std::vector<ParameterSpec> parameters,
                                                StatePrecision precision = StatePrecision::kFull);

  std::span<const ParameterSpec> parameters() const { return parameters_; }
  std::span<const Run> runs() const { return runs_; }

  // Of the arenas of an optimizer's state; gradients and updates have 32 bits.
  StatePrecision precision() const { return precision_; }

  // Elements of all parameters, without and with the gaps of alignment.
  size_t element_count() const { return element_count_; }
  size_t arena_size() const { return arena_size_; }

 private:
  ParameterLayout() = default;

  std::vector<ParameterSpec> parameters_;
  std::vector<Run> runs_;
  size_t element_count_ = 0;
  size_t arena_size_ = 0;
  StatePrecision precision_ = StatePrecision::kFull;
};

}  // namespace mnemosyne::optim
