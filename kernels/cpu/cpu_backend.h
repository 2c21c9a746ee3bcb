// The backend on the host's processor: fixed blocks, spread over threads, with loops for the
// machine's instruction set.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/axis_means.h"
#include "kernels/cpu/block_runner.h"
#include "kernels/cpu/kernel_table.h"

namespace mnemosyne::kernels::cpu {

// Thread-safety and errors: as Backend. Every call returns when its work is done.
class CpuBackend : public Backend {
 public:
  // InvalidArgument for negative threads or an unknown instruction set, FailedPrecondition for one
  // that this machine lacks.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(const CpuOptions& options);

  std::string_view name() const override { return "cpu"; }
  std::string description() const override;
  bool host_accessible() const override { return true; }
  std::optional<size_t> FreeMemory() const override { return std::nullopt; }

  absl::StatusOr<Buffer> Allocate(size_t size) override;
  absl::StatusOr<Buffer> AllocateHost(size_t size) override { return Allocate(size); }
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

 protected:
  // What a backend is made of.
  struct Parts {
    const KernelTable* kernels;
    int threads;
  };

  // Errors as Create.
  static absl::StatusOr<Parts> FindParts(const CpuOptions& options);

  explicit CpuBackend(const Parts& parts) : kernels_(*parts.kernels), runner_(parts.threads) {}

 private:
  // Cuts `segments` and calls work(block) for each block.
  template <typename Work>
  void ForEachBlock(std::span<const Segment> segments, const Work& work);

  // As above; work returns a number, and the numbers of a segment's blocks are added up.
  template <typename Work>
  void SumOverBlocks(std::span<const Segment> segments, std::span<double> sums, const Work& work);

  // Calls work(first row, rows) for parts of `rows` rows, each of which costs about `cost`
  // operations.
  template <typename Work>
  void ForEachRows(size_t rows, size_t cost, const Work& work);

  // Calls work(memory, step) for all steps of each memory, in order.
  template <typename Work>
  void ForEachMemory(const MemoryArgs& args, const Work& work);

  const KernelTable& kernels_;
  BlockRunner runner_;
  std::vector<Block> blocks_;    // Workspace.
  std::vector<Block> batches_;   // Of chunks: their number, the first one, their elements.
  std::vector<double> partial_;  // Workspace: a sum a block.
  std::vector<int64_t> counts_;  // Workspace: a count a block.
  AxisMeans means_;              // Workspace: of second moments.
  std::vector<float> contents_;  // Workspace: two contents a block.
};

}  // namespace mnemosyne::kernels::cpu
