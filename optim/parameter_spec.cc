#include "optim/parameter_spec.h"

#include <limits>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::optim {
namespace {

// The most elements of an arena: its bytes still fit an int64 in every data type.
constexpr size_t kElementsMax = static_cast<size_t>(std::numeric_limits<int64_t>::max()) / 8;

absl::Status NameParameter(const ParameterSpec& parameter, const absl::Status& status) {
  return WithMetadata(InvalidArgument("parameter {}: {}", parameter.name, ErrorMessage(status)),
                      "parameter", parameter.name);
}

}  // namespace

absl::StatusOr<size_t> ElementCount(std::span<const int64_t> shape) {
  if (shape.size() > kRankMax) {
    return InvalidArgument("too many dimensions: shape has {}, expected at most {}", shape.size(),
                           kRankMax);
  }
  int64_t count = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 1) {
      return InvalidArgument("empty shape: dimension {} is {}, expected at least 1", i, shape[i]);
    }
    if (__builtin_mul_overflow(count, shape[i], &count)) {
      return InvalidArgument("shape too large: the number of elements overflows");
    }
  }
  return static_cast<size_t>(count);
}

absl::StatusOr<ParameterLayout> ParameterLayout::Create(std::vector<ParameterSpec> parameters,
                                                        StatePrecision precision) {
  if (parameters.empty()) return InvalidArgument("no parameters: expected at least 1");
  ParameterLayout layout;
  std::unordered_set<std::string_view> names;
  for (const ParameterSpec& parameter : parameters) {
    if (parameter.name.empty()) {
      return InvalidArgument("empty name: parameter at position {}", names.size());
    }
    if (!names.insert(parameter.name).second) {
      return NameParameter(parameter, InvalidArgument("repeated name"));
    }
    const absl::StatusOr<size_t> count = ElementCount(parameter.shape);
    if (!count.ok()) return NameParameter(parameter, count.status());
    if (*count > kElementsMax - layout.arena_size_ - kAlignment) {
      return NameParameter(parameter, InvalidArgument("parameters too large: the number of "
                                                      "elements of all together overflows"));
    }
    layout.runs_.push_back({layout.arena_size_, *count});
    layout.element_count_ += *count;
    layout.arena_size_ += (*count + kAlignment - 1) / kAlignment * kAlignment;
  }
  layout.parameters_ = std::move(parameters);
  layout.precision_ = precision;
  return layout;
}

}  // namespace mnemosyne::optim
