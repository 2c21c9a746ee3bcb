// The one seam between the optimizers and the devices that run them: memory on a device, and the
// operations that an optimizer is made of. Everything above this header is the same code on a CPU
// and on a GPU.
//
// Calls are queued in order and may return before the work is done; Download, Synchronize and the
// ops that return numbers to the host wait.
//
// Thread-safety: not thread-safe, but for Allocate and freeing a Buffer, which any thread may do.
// Each StepExecutor owns one Backend and is the only caller of its ops.
// Errors: InvalidArgument for shapes that do not agree, ResourceExhausted when the device is out of
// memory, after both of which all states are as they were; Internal for a device fault, after which
// the Backend must not be used again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/buffer.h"
#include "kernels/coordinate_step.h"
#include "kernels/flt/flt_attention.h"
#include "kernels/gradient_statistics.h"
#include "kernels/lstm_step.h"
#include "kernels/mnemosyne_step.h"
#include "kernels/optimizer_steps.h"
#include "kernels/row_ops.h"

namespace mnemosyne::kernels {

class Backend {
 public:
  virtual ~Backend() = default;

  // `cpu` or `cuda:<ordinal>`. For logs and test names, never to branch on.
  virtual std::string_view name() const = 0;

  // For people: instruction set and threads, or the GPU's name.
  virtual std::string description() const = 0;

  // Whether Buffers are ordinary host memory, so that a gradient can be received where it is used.
  virtual bool host_accessible() const = 0;

  // Bytes of the device's own memory that are free now; nothing where Buffers are host memory.
  virtual std::optional<size_t> FreeMemory() const = 0;

  // Returns `size` zeroed bytes, aligned to 64.
  virtual absl::StatusOr<Buffer> Allocate(size_t size) = 0;

  // The same in host memory, from where this device copies fastest.
  virtual absl::StatusOr<Buffer> AllocateHost(size_t size) = 0;

  // Whether steps of several states in one call take less than one after the other.
  virtual bool shares_launches() const { return false; }

  // How often memory was asked for; any thread.
  uint64_t allocation_count() const { return allocation_count_.load(std::memory_order_relaxed); }

  // Copies `size` bytes between host and device, whose part memory of AllocateHost may play as
  // well. Download waits for all earlier calls.
  virtual absl::Status Upload(const std::byte* host, std::byte* device, size_t size) = 0;
  virtual absl::Status Download(const std::byte* device, std::byte* host, size_t size) = 0;

  // The same for `host` that AllocateHost has made, and may return before the copy is done: `host`
  // is left alone until a later call has waited, as wait_count() tells.
  virtual absl::Status UploadLater(const std::byte* host, std::byte* device, size_t size) {
    return Upload(host, device, size);
  }
  virtual absl::Status DownloadLater(const std::byte* device, std::byte* host, size_t size) {
    return Download(device, host, size);
  }

  // How often a call has waited for all earlier ones.
  virtual uint64_t wait_count() const { return 0; }

  // Measures gradients; returns when `args.statistics` is written.
  virtual absl::Status MeasureGradients(const GradientStatisticsArgs& args) = 0;

  // The same of several states: one after the other, or together where that is faster.
  virtual absl::Status MeasureManyGradients(std::span<const GradientStatisticsArgs> all) {
    return EachOf(all,
                  [this](const GradientStatisticsArgs& args) { return MeasureGradients(args); });
  }

  // Sets elements that are NaN or infinite to 0.
  virtual absl::Status ZeroNonFinite(std::span<const Segment> segments, float* values) = 0;

  // Sets all elements to 0.
  virtual absl::Status SetZero(std::span<const Segment> segments, float* values) = 0;

  // One step of an update rule over all segments; see optimizer_steps.h.
  virtual absl::Status SgdStep(const SgdStepArgs& args) = 0;
  virtual absl::Status AdamStep(const AdamStepArgs& args) = 0;
  virtual absl::Status LionStep(const LionStepArgs& args) = 0;

  // The same of several states: one after the other, or together where that is faster. Each gets
  // the bits that it would get alone. No two share memory.
  virtual absl::Status SgdSteps(std::span<const SgdStepArgs> all) {
    return EachOf(all, [this](const SgdStepArgs& args) { return SgdStep(args); });
  }
  virtual absl::Status AdamSteps(std::span<const AdamStepArgs> all) {
    return EachOf(all, [this](const AdamStepArgs& args) { return AdamStep(args); });
  }
  virtual absl::Status LionSteps(std::span<const LionStepArgs> all) {
    return EachOf(all, [this](const LionStepArgs& args) { return LionStep(args); });
  }

  // One step of a coordinate-wise LSTM over all segments; see lstm_step.h.
  virtual absl::Status LstmStep(const LstmStepArgs& args) = 0;

  // One step of the coordinate-wise optimizer over all segments; see coordinate_step.h. A device
  // that lacks it answers Unimplemented, also where there is nothing to do.
  virtual absl::Status CoordinateStep(const CoordinateStepArgs& args) = 0;

  // The parts of attention, over many rows; see row_ops.h.
  virtual absl::Status DenseLayer(const DenseLayerArgs& args) = 0;
  virtual absl::Status FeatureMap(const FeatureMapArgs& args) = 0;
  virtual absl::Status BidirectionalAttention(const BidirectionalAttentionArgs& args) = 0;
  virtual absl::Status AdditiveMemory(const AdditiveMemoryArgs& args) = 0;
  virtual absl::Status DeltaMemory(const DeltaMemoryArgs& args) = 0;

  // The parts of a step of the flagship; see mnemosyne_step.h. A device that lacks them answers
  // Unimplemented, also where there is nothing to do.
  virtual absl::Status MnemosyneContext(const MnemosyneContextArgs& args) = 0;
  virtual absl::Status MnemosyneStep(const MnemosyneStepArgs& args) = 0;

  // Both for several states of one model, no two of which share memory: one after the other, or
  // together where that is faster. Each gets the bits that it would get alone.
  virtual absl::Status MnemosyneUpdates(const MnemosyneModel& model,
                                        std::span<const MnemosyneUpdateArgs> all) {
    return EachOf(all, [&](const MnemosyneUpdateArgs& args) {
      absl::Status status = MnemosyneContext({model, args.memory, args.sums});
      if (!status.ok()) return status;
      return MnemosyneStep({model, args.memory, args.parameters, args.steps, args.sums, args.values,
                            args.square_sums, args.capped, /*replay=*/false});
    });
  }

  // FLT attention, forward and backward; see flt/flt_attention.h. A device that lacks them answers
  // Unimplemented.
  virtual absl::Status FltAttention(const FltAttentionArgs& args) = 0;
  virtual absl::Status FltAttentionBackward(const FltBackwardArgs& args) = 0;

  virtual absl::Status Synchronize() = 0;

  // Why the device cannot be used any more, which is Internal; ok while it can.
  virtual absl::Status Fault() const { return absl::OkStatus(); }

 protected:
  void CountAllocation() { allocation_count_.fetch_add(1, std::memory_order_relaxed); }

 private:
  template <typename Args, typename Call>
  static absl::Status EachOf(std::span<const Args> all, const Call& call) {
    for (const Args& args : all) {
      if (absl::Status status = call(args); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  std::atomic<uint64_t> allocation_count_ = 0;
};

// Options of a backend on the CPU.
struct CpuOptions {
  int threads = 0;           // 0 is one for each core.
  std::string isa = "auto";  // auto, baseline, avx2, avx512; FailedPrecondition if not supported.
};

// The GPUs of this machine that this build has a backend for: `cuda:0` and so on.
std::vector<std::string> GpuNames();

// Makes the backend `device`: `cpu`, `cuda:<ordinal>`, or in builds with tests `apart:<MiB>` or
// `failing:<uploads>` (see ApartBackend). FailedPrecondition if this build or this machine lacks
// it; the message says which.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(std::string_view device,
                                                       const CpuOptions& options = {});

}  // namespace mnemosyne::kernels
