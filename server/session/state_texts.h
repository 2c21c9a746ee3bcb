// The names under which a session's snapshot holds what it holds.
#pragma once

#include <span>
#include <string>

#include "optim/optimizer.h"
#include "optim/parameter_spec.h"
#include "server/store/snapshot_file.h"

namespace mnemosyne::server {

// Texts: a SessionRecord in JSON; whether the state is here or is that before step 1.
inline constexpr char kSessionText[] = "session";
inline constexpr char kStateText[] = "state";
inline constexpr char kFullState[] = "full";
inline constexpr char kFirstState[] = "first";

// Tensors behind those of the optimizer: SessionState::clocks, and the bytes of its LastStep (none
// if there is no last step).
inline constexpr char kClocksTensor[] = "session/clocks";
inline constexpr char kLastStepTensor[] = "session/last_step";

// A tensor of a state as a snapshot calls it: `<slot>/<parameter>`.
inline SnapshotTensor DescribeTensor(const optim::StateTensor& tensor,
                                     std::span<const optim::ParameterSpec> parameters) {
  const auto type_name = [](DataType type) {
    switch (type) {
      case DataType::kFloat32:
        return "F32";
      case DataType::kBFloat16:
        return "BF16";
      case DataType::kFloat16:
        return "F16";
      default:
        return "F64";
    }
  };
  std::string type = type_name(tensor.data_type);
  std::vector<int64_t> shape = tensor.shape;
  size_t bytes = ElementSize(tensor.data_type);
  for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
  if (bytes != tensor.byte_count) {  // A packed tensor.
    type = "U8";
    shape = {static_cast<int64_t>(tensor.byte_count)};
  }
  return {.name = std::string(tensor.slot) + "/" + parameters[tensor.parameter].name,
          .type = std::move(type),
          .shape = std::move(shape),
          .byte_count = tensor.byte_count};
}

}  // namespace mnemosyne::server
