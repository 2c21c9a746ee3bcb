#include "server/rpc/state_header.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "server/rpc/session_codec.h"

namespace mnemosyne::server {
namespace {

constexpr int32_t kFormatVersion = 1;

template <typename... Args>
absl::Status Mismatch(fmt::format_string<Args...> format, Args&&... args) {
  return WithReason(InvalidArgument(format, std::forward<Args>(args)...), "STATE_MISMATCH");
}

absl::Status CheckParameters(const v1::StateHeader& header, const Session& session) {
  const auto parameters = session.layout().parameters();
  const auto count = static_cast<int>(parameters.size());
  if (header.spec().parameters_size() != count || header.parameter_steps_size() != count) {
    return Mismatch("the state has {} parameters and {} step counts, the session has {} parameters",
                    header.spec().parameters_size(), header.parameter_steps_size(), count);
  }
  for (int i = 0; i < count; ++i) {
    const optim::ParameterSpec& expected = parameters[static_cast<size_t>(i)];
    const v1::ParameterSpec& actual = header.spec().parameters(i);
    if (actual.name() != expected.name || !std::ranges::equal(actual.shape(), expected.shape)) {
      return Mismatch("parameter {} of the state is '{}' [{}], of the session '{}' [{}]", i,
                      actual.name(), fmt::join(actual.shape(), ", "), expected.name,
                      fmt::join(expected.shape, ", "));
    }
    if (header.parameter_steps(i) < 0 || header.parameter_steps(i) > header.step()) {
      return Mismatch("parameter {} ('{}') has taken part in {} steps of {}", i, expected.name,
                      header.parameter_steps(i), header.step());
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTensors(const v1::StateHeader& header,
                          const std::vector<optim::StateTensor>& tensors) {
  if (static_cast<size_t>(header.tensors_size()) != tensors.size()) {
    return Mismatch("the state has {} tensors, the session's has {}", header.tensors_size(),
                    tensors.size());
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const v1::StateTensor& actual = header.tensors(static_cast<int>(i));
    const optim::StateTensor& expected = tensors[i];
    if (actual.slot() != expected.slot ||
        actual.parameter() != static_cast<int32_t>(expected.parameter) ||
        !std::ranges::equal(actual.shape(), expected.shape) ||
        actual.data_type() != static_cast<v1::DataType>(expected.data_type) ||
        actual.byte_count() != static_cast<int64_t>(expected.byte_count)) {
      return Mismatch(
          "tensor {} of the state is {} of parameter {} with {} bytes, the session's is {} of "
          "parameter {} with {} bytes",
          i, actual.slot(), actual.parameter(), actual.byte_count(), expected.slot,
          expected.parameter, expected.byte_count);
    }
  }
  return absl::OkStatus();
}

}  // namespace

v1::StateHeader MakeStateHeader(const Session& session,
                                const std::vector<optim::StateTensor>& tensors) {
  v1::StateHeader header;
  header.set_format_version(kFormatVersion);
  *header.mutable_spec() = SpecToProto(session, /*with_parameters=*/true);
  header.set_step(session.state().last_step);
  const auto& clocks = session.state().clocks;
  header.mutable_parameter_steps()->Assign(clocks.begin(), clocks.end());
  int64_t bytes = 0;
  for (const optim::StateTensor& tensor : tensors) {
    v1::StateTensor& target = *header.add_tensors();
    target.set_slot(std::string(tensor.slot));
    target.set_parameter(static_cast<int32_t>(tensor.parameter));
    target.mutable_shape()->Assign(tensor.shape.begin(), tensor.shape.end());
    target.set_data_type(static_cast<v1::DataType>(tensor.data_type));
    target.set_byte_count(static_cast<int64_t>(tensor.byte_count));
    bytes += target.byte_count();
  }
  header.set_byte_count(bytes);
  return header;
}

absl::Status CheckStateHeader(const v1::StateHeader& header, const Session& session,
                              const std::vector<optim::StateTensor>& tensors) {
  if (header.format_version() != kFormatVersion) {
    return Mismatch("the state has format version {}, this daemon reads {}",
                    header.format_version(), kFormatVersion);
  }
  const optim::OptimizerInfo& optimizer = session.optimizer();
  if (header.spec().optimizer() != optimizer.name ||
      header.spec().optimizer_version() != optimizer.version) {
    return Mismatch("the state is of optimizer {} version {}, the session has {} version {}",
                    header.spec().optimizer(), header.spec().optimizer_version(), optimizer.name,
                    optimizer.version);
  }
  if (header.spec().weights_hash() != optimizer.weights_hash) {
    return Mismatch("the state belongs to the weights {}, the session's are {}",
                    header.spec().weights_hash(), optimizer.weights_hash);
  }
  if (header.step() < 0) return Mismatch("the state's step is {}", header.step());
  MNEMO_RETURN_IF_ERROR(CheckParameters(header, session));
  return CheckTensors(header, tensors);
}

}  // namespace mnemosyne::server
