// The backend on an NVIDIA GPU: one stream, a kernel an op for all tensors at once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "kernels/backend.h"
#include "kernels/cuda/coordinate_runner.h"
#include "kernels/cuda/flt_kernels.h"
#include "kernels/cuda/flt_runner.h"
#include "kernels/cuda/mnemosyne_runner.h"
#include "kernels/cuda/staging.h"
#include "kernels/cuda/step_blocks.h"
#include "kernels/cuda/table_cache.h"
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
  // One of the tests, on the first GPU: a kernel of it runs into a trap at that upload, counted
  // from 1, which ends the use of the GPU by this process. Errors as Create.
  static absl::StatusOr<std::unique_ptr<Backend>> CreateTrapping(int uploads);
  ~CudaBackend() override;

  std::string_view name() const override { return name_; }
  std::string description() const override { return description_; }
  bool host_accessible() const override { return false; }
  std::optional<size_t> FreeMemory() const override;

  absl::StatusOr<Buffer> Allocate(size_t size) override;
  absl::StatusOr<Buffer> AllocateHost(size_t size) override;  // Pinned.
  absl::Status Upload(const std::byte* host, std::byte* device, size_t size) override;
  absl::Status Download(const std::byte* device, std::byte* host, size_t size) override;
  absl::Status UploadLater(const std::byte* host, std::byte* device, size_t size) override;
  absl::Status DownloadLater(const std::byte* device, std::byte* host, size_t size) override;
  uint64_t wait_count() const override { return wait_count_; }
  bool shares_launches() const override { return true; }

  absl::Status MeasureGradients(const GradientStatisticsArgs& args) override;
  absl::Status MeasureManyGradients(std::span<const GradientStatisticsArgs> all) override;
  absl::Status ZeroNonFinite(std::span<const Segment> segments, float* values) override;
  absl::Status SetZero(std::span<const Segment> segments, float* values) override;
  absl::Status SgdStep(const SgdStepArgs& args) override;
  absl::Status AdamStep(const AdamStepArgs& args) override;
  absl::Status LionStep(const LionStepArgs& args) override;
  absl::Status SgdSteps(std::span<const SgdStepArgs> all) override;
  absl::Status AdamSteps(std::span<const AdamStepArgs> all) override;
  absl::Status LionSteps(std::span<const LionStepArgs> all) override;
  absl::Status LstmStep(const LstmStepArgs& args) override;
  absl::Status CoordinateStep(const CoordinateStepArgs& args) override;
  absl::Status DenseLayer(const DenseLayerArgs& args) override;
  absl::Status FeatureMap(const FeatureMapArgs& args) override;
  absl::Status BidirectionalAttention(const BidirectionalAttentionArgs& args) override;
  absl::Status AdditiveMemory(const AdditiveMemoryArgs& args) override;
  absl::Status DeltaMemory(const DeltaMemoryArgs& args) override;
  absl::Status MnemosyneContext(const MnemosyneContextArgs& args) override;
  absl::Status MnemosyneStep(const MnemosyneStepArgs& args) override;
  absl::Status MnemosyneUpdates(const MnemosyneModel& model,
                                std::span<const MnemosyneUpdateArgs> all) override;

  absl::Status FltAttention(const FltAttentionArgs& args) override;
  absl::Status FltAttentionBackward(const FltBackwardArgs& args) override;

  absl::Status Synchronize() override;
  absl::Status Fault() const override;

 private:
  // The stream that all work is queued on, and the memory that Buffers are of. The pool keeps what
  // is freed, which nobody has to wait for, and hands it out again. Any thread may allocate: the
  // stream for that keeps out of the way of the work. Threads have none of their own, which would
  // be taken apart at their end, and on a device that has failed perhaps never.
  struct Resources {
    cudaStream_t stream = nullptr;
    cudaMemPool_t pool = nullptr;
    Mutex mutex;
    cudaStream_t allocating ABSL_GUARDED_BY(mutex) = nullptr;
    ~Resources();
  };

  CudaBackend(int ordinal, std::string description, unsigned processors,
              std::shared_ptr<Resources> resources);

  // Cuts `segments` into blocks_ and sends them to the device, if they are not those of the last
  // call, and `extra_size` bytes from `extra`; reserves `result_size` bytes a block for results,
  // there and here.
  absl::Status PrepareWorkspace(std::span<const Segment> segments, const void* extra,
                                size_t extra_size, size_t result_size);

  // Calls launch() with the device set.
  template <typename Launch>
  absl::Status Launched(const Launch& launch);

  // Takes the steps of all of `all` with launch(blocks on the device, how many, coefficients on the
  // device, whether to replay, sums a block on the device, stream), and adds up the sums. One
  // launch where all replay or none.
  template <typename Args, typename Launch>
  absl::Status RunSteps(std::span<const Args> all, const Launch& launch);

  void CountUpload();

  const Block* device_blocks() const { return block_table_.At<Block>(0); }
  const std::byte* device_extra() const { return extra_.At<std::byte>(0); }
  std::byte* device_results() const { return results_; }

  const int ordinal_;
  const std::string name_;
  const std::string description_;
  const std::shared_ptr<Resources> resources_;  // Shared with all Buffers.
  const cudaStream_t stream_;
  uint64_t wait_count_ = 0;
  int uploads_left_ = 0;  // Until it traps; 0 for one that does not.

  // Workspace.
  std::vector<Segment> segments_;  // That blocks_ are cut from.
  std::vector<Block> blocks_;
  Staging block_table_;
  Staging extra_;
  Reserve results_reserve_;
  std::byte* results_ = nullptr;
  Landing landing_;
  TableCache<StepBlocks> step_blocks_;
  std::vector<double> sums_;

  CoordinateRunner coordinate_;
  MnemosyneRunner mnemosyne_;
  FltKernels flt_kernels_;
  FltRunner flt_;
};

}  // namespace mnemosyne::kernels::cuda
