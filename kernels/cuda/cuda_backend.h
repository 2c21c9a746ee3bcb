// The backend on an NVIDIA GPU: one stream, a kernel an op for all tensors at once.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/coordinate_runner.h"
#include "kernels/cuda/flt_kernels.h"
#include "kernels/cuda/flt_runner.h"
#include "kernels/cuda/mnemosyne_runner.h"
#include "kernels/segment.h"

namespace mnemosyne::kernels::cuda {

// Thread-safety and errors: as Backend. Elementwise results are the bits of the CPU's AVX2 loops;
// sums are formed in another, also fixed, order.
class CudaBackend final : public Backend {
 public:
  // GPUs of this machine; 0 without a driver.
  static int Count();

  // FailedPrecondition if the machine has no driver or no GPU of that ordinal.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(int ordinal);
  ~CudaBackend() override;

  std::string_view name() const override { return name_; }
  std::string description() const override { return description_; }
  bool host_accessible() const override { return false; }
  std::optional<size_t> FreeMemory() const override;

  absl::StatusOr<Buffer> Allocate(size_t size) override;
  absl::StatusOr<Buffer> AllocateHost(size_t size) override;  // Pinned.
  absl::Status Upload(const std::byte* host, std::byte* device, size_t size) override;
  absl::Status Download(const std::byte* device, std::byte* host, size_t size) override;

  absl::Status MeasureGradients(const GradientStatisticsArgs& args) override;
  absl::Status ZeroNonFinite(std::span<const Segment> segments, float* values) override;
  absl::Status SetZero(std::span<const Segment> segments, float* values) override;
  absl::Status SgdStep(const SgdStepArgs& args) override;
  absl::Status AdamStep(const AdamStepArgs& args) override;
  absl::Status LionStep(const LionStepArgs& args) override;
  absl::Status LstmStep(const LstmStepArgs& args) override;
  absl::Status CoordinateStep(const CoordinateStepArgs& args) override;
  absl::Status DenseLayer(const DenseLayerArgs& args) override;
  absl::Status FeatureMap(const FeatureMapArgs& args) override;
  absl::Status BidirectionalAttention(const BidirectionalAttentionArgs& args) override;
  absl::Status AdditiveMemory(const AdditiveMemoryArgs& args) override;
  absl::Status DeltaMemory(const DeltaMemoryArgs& args) override;
  absl::Status MnemosyneContext(const MnemosyneContextArgs& args) override;
  absl::Status MnemosyneStep(const MnemosyneStepArgs& args) override;

  absl::Status FltAttention(const FltAttentionArgs& args) override;
  absl::Status FltAttentionBackward(const FltBackwardArgs& args) override;

  absl::Status Synchronize() override;
  absl::Status Fault() const override;

 private:
  CudaBackend(int ordinal, std::string description, unsigned processors, cudaStream_t stream);

  // Cuts `segments` into blocks_ and puts these, followed by `extra_size` bytes from `extra`, into
  // the workspace; reserves as much as `result_size` bytes a block behind them.
  absl::Status PrepareWorkspace(std::span<const Segment> segments, const void* extra,
                                size_t extra_size, size_t result_size);

  // Calls launch() with the device set.
  template <typename Launch>
  absl::Status Launched(const Launch& launch);

  // Runs `launch(coefficients on the device, sums a block on the device)` over the segments of
  // `args` and adds up the sums.
  template <typename Args, typename Launch>
  absl::Status RunStep(const Args& args, const Launch& launch);

  const Block* device_blocks() const { return workspace_.as<const Block>(); }
  std::byte* device_extra() const;
  std::byte* device_results() const;

  const int ordinal_;
  const std::string name_;
  const std::string description_;
  const cudaStream_t stream_;

  // Workspace: blocks, then an op's coefficients, then its results, each aligned.
  std::vector<Block> blocks_;
  std::vector<double> partial_;
  std::vector<int64_t> counts_;
  Buffer workspace_;
  size_t extra_offset_ = 0;
  size_t results_offset_ = 0;

  CoordinateRunner coordinate_;
  MnemosyneRunner mnemosyne_;
  FltKernels flt_kernels_;
  FltRunner flt_;
};

}  // namespace mnemosyne::kernels::cuda
