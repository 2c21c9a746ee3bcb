// FltPrograms as kernels on a stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/error.h"
#include "kernels/cuda/flt_programs.h"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {

class FltKernels final : public FltPrograms {
 public:
  explicit FltKernels(cudaStream_t stream) : stream_(stream) {}

  absl::Status Clear(std::byte* data, size_t size) override {
    return ToStatus(cudaMemsetAsync(data, 0, size, stream_));
  }
  absl::Status CheckPositions(const float* positions, size_t count, uint64_t* first_bad) override {
    return ToStatus(LaunchFltPositions(positions, count, first_bad, stream_));
  }
  absl::Status AddKeys(const FltCall& call) override {
    return ToStatus(LaunchFltKeys(call, stream_));
  }
  absl::Status Merge(const FltCall& call) override {
    return ToStatus(LaunchFltMerge(call, stream_));
  }
  absl::Status Answer(const FltCall& call) override {
    return ToStatus(LaunchFltAnswer(call, stream_));
  }
  absl::Status WriteState(const FltCall& call) override {
    return ToStatus(LaunchFltState(call, stream_));
  }

 private:
  static absl::Status ToStatus(cudaError_t error) {
    if (error == cudaSuccess) return absl::OkStatus();
    return Internal("device fault: {}", cudaGetErrorString(error));
  }

  const cudaStream_t stream_;
};

}  // namespace mnemosyne::kernels::cuda
