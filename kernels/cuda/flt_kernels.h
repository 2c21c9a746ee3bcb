// FltPrograms as kernels on a stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/cuda/flt_programs.h"
#include "kernels/cuda/launchers.h"

namespace mnemosyne::kernels::cuda {

class FltKernels final : public FltPrograms {
 public:
  explicit FltKernels(cudaStream_t stream) : stream_(stream) {}
  ~FltKernels() override {
    if (flag_ != nullptr) cudaFreeHost(flag_);
  }
  FltKernels(const FltKernels&) = delete;
  FltKernels& operator=(const FltKernels&) = delete;

  absl::Status Clear(std::byte* data, size_t size) override {
    return ToStatus(cudaMemsetAsync(data, 0, size, stream_));
  }
  absl::Status CheckPositions(const float* positions, size_t count, uint64_t* first_bad) override {
    return ToStatus(LaunchFltPositions(positions, count, first_bad, stream_));
  }
  absl::Status Prepare(const FltCall& call) override {
    return ToStatus(LaunchFltPreparation(call, stream_));
  }
  // On the host, where devices write to it: reading it takes no copy.
  absl::StatusOr<uint32_t*> Flag() override {
    if (flag_ == nullptr) {
      void* data = nullptr;
      MNEMO_RETURN_IF_ERROR(ToStatus(
          cudaHostAlloc(&data, sizeof(uint32_t), cudaHostAllocPortable | cudaHostAllocMapped)));
      flag_ = static_cast<uint32_t*>(data);
      *flag_ = 0;
    }
    return flag_;
  }
  absl::StatusOr<bool> Wait() override {
    MNEMO_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream_)));
    return std::exchange(*flag_, 0U) != 0;
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
  absl::Status AddQueries(const FltBackCall& call) override {
    return ToStatus(LaunchFltQuickRows(call, stream_));
  }
  absl::Status DifferentiateQueries(const FltBackCall& call) override {
    return ToStatus(LaunchFltBackQueries(call, stream_));
  }
  absl::Status MergeQueries(const FltBackCall& call) override {
    return ToStatus(LaunchFltBackMerge(call, stream_));
  }
  absl::Status DifferentiateKeys(const FltBackCall& call) override {
    return ToStatus(LaunchFltBackKeys(call, stream_));
  }
  absl::Status AddTotals(const FltBackCall& call) override {
    return ToStatus(LaunchFltBackTotals(call, stream_));
  }

 private:
  static absl::Status ToStatus(cudaError_t error) {
    if (error == cudaSuccess) return absl::OkStatus();
    return Internal("device fault: {}", cudaGetErrorString(error));
  }

  const cudaStream_t stream_;
  uint32_t* flag_ = nullptr;
};

}  // namespace mnemosyne::kernels::cuda
