// The host's side of FLT attention on a GPU: keeps what does not change from call to call on the
// device, runs the programs, and turns what they found into errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_plan.h"
#include "kernels/cuda/flt_programs.h"
#include "kernels/cuda/flt_tables.h"
#include "kernels/cuda/staging.h"

namespace mnemosyne::kernels::cuda {

// Thread-safety and errors: as Backend, whose part it is. Arguments are assumed to be checked.
class FltRunner {
 public:
  // Of a backend and programs that outlive this.
  FltRunner(Backend& backend, FltPrograms& programs) : backend_(backend), programs_(programs) {}

  // Returns when the outputs are written: what is wrong with numbers is known only then.
  absl::Status Attend(const FltAttentionArgs& args);

  // Returns when the gradients are written.
  absl::Status Differentiate(const FltBackwardArgs& args);

 private:
  // How calls of some shape are cut, with the tables of that on the device.
  struct KeptPlan {
    // What a plan depends on.
    struct Rows {
      size_t floats, at_once, sum_count, heads, batch, length;
      std::vector<size_t> sequence_starts;
      bool operator==(const Rows&) const = default;
    };
    std::optional<Rows> planned;
    std::vector<FltLaunchPlan> launches;
    Staging tables;
    std::vector<size_t> parts_at, units_at;
  };

  // Copies the kernel's arrays to the device, unless those of the last call were the same.
  absl::Status KeepWeights(const FltKernel& kernel);
  // The parts and units of calls that need `floats` a part, of which `at_once` run at a time on a
  // multiprocessor, unless those of the last call were the same.
  absl::Status KeepPlan(const FltAttentionArgs& args, size_t floats, size_t at_once,
                        KeptPlan& plan);
  // Points a call to the parts and units of launch i.
  static void Point(const KeptPlan& plan, size_t i, FltCall& call);
  // What does not depend on a launch. Weights are assumed to be kept.
  FltCall CallOf(const FltAttentionArgs& args) const;
  // The quick program's form of the weights, unless it is there.
  absl::Status KeepPrepared(FltCall& call);
  // Makes a call ready for the quick program; returns whether that takes it.
  absl::StatusOr<bool> PrepareQuickly(FltCall& call);
  // Runs the quick program, if it takes the call; returns whether what it wrote counts.
  absl::StatusOr<bool> LaunchQuickly(FltCall call);
  // Runs the others, which count what is wrong with numbers.
  absl::Status LaunchCarefully(const FltAttentionArgs& args, FltCall call);
  // Points a call to the parts and the workspace of launch i.
  absl::Status Place(size_t i, FltCall& call);
  // Sets a call's counts to 0 and counts positions that cannot be taken.
  absl::Status ClearCounts(const FltAttentionArgs& args, FltCall& call);
  absl::Status ReadCounts(const FltAttentionArgs& args);
  // Whether the quick program takes a backward pass whose weights are ready for it; gives it room.
  absl::StatusOr<bool> PrepareQuickly(FltBackCall& call, size_t rows);
  // Launch i of the backward pass, whose gradients of the kernel are so many.
  absl::Status LaunchBackward(size_t i, size_t gradients, FltBackCall call);
  absl::Status PositionError(const FltAttentionArgs& args, size_t index);

  Backend& backend_;
  FltPrograms& programs_;

  uint64_t kept_kernel_ = 0;  // See FltKernel::id.
  std::vector<float> kept_weights_;
  Buffer weights_;
  FltWeights weights_at_ = {};
  Buffer prepared_;
  std::optional<std::pair<FltType, uint32_t>> prepared_for_;  // Tensors' type, features.

  KeptPlan forward_plan_, backward_plan_;
  Reserve space_, counts_, totals_, numbers_;
  std::vector<FltCounts> found_;
};

}  // namespace mnemosyne::kernels::cuda
