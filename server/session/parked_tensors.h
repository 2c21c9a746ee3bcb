// The tensors of an optimizer's state in host memory, away from a device with a memory of its own.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "optim/optimizer.h"
#include "optim/parameter_spec.h"
#include "server/store/snapshot_file.h"

namespace mnemosyne::server {

// Belongs to its session's state. Not thread-safe.
class ParkedTensors {
 public:
  // Copies tensors of a state of `parameters` from the device. ResourceExhausted if the host has no
  // room, or as Backend::Download.
  static absl::StatusOr<std::unique_ptr<ParkedTensors>> Take(
      const std::vector<optim::StateTensor>& tensors,
      std::span<const optim::ParameterSpec> parameters, kernels::Backend& backend);

  // Copies them into the same tensors of a state that was just made. Internal if they are others,
  // or as Backend::Upload.
  absl::Status PutInto(const std::vector<optim::StateTensor>& tensors,
                       kernels::Backend& backend) const;

  // What they are, in the order of the state, and the bytes of all, one tensor behind the other.
  const std::vector<SnapshotTensor>& tensors() const { return tensors_; }
  std::span<const std::byte> bytes() const { return {bytes_.get(), size_}; }

 private:
  ParkedTensors() = default;

  struct Free {
    void operator()(std::byte* memory) const;
  };

  std::vector<SnapshotTensor> tensors_;
  std::unique_ptr<std::byte, Free> bytes_;
  size_t size_ = 0;
};

}  // namespace mnemosyne::server
