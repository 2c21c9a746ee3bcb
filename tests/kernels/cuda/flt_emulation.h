// The programs of FLT attention on a GPU, run on the CPU: a block is one thread, and blocks run one
// after the other. Their arithmetic and their indices are those of a GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/flt_programs.h"

namespace mnemosyne::kernels::cuda {

// Which programs run: the one for all sizes; teams where they fit; the quick program where it fits,
// and teams elsewhere, as on a GPU; or groups before all others, as on a GPU that has them.
enum class FltProgramKind { kBlocks, kTeams, kQuick, kGroups };

// What the emulated programs have done.
struct FltPartCounts {
  // Parts that teams have taken, the quick program, groups, and the quick program's backward pass.
  size_t team = 0, quick = 0, group = 0, quick_back = 0;
};

class EmulatedFlt : public FltPrograms {
 public:
  explicit EmulatedFlt(FltProgramKind kind) : kind_(kind) {}

  absl::Status Clear(std::byte* data, size_t size) override;
  absl::Status CheckPositions(const float* positions, size_t count, uint64_t* first_bad) override;
  absl::Status Prepare(const FltCall& call) override;
  absl::StatusOr<uint32_t*> Flag() override { return IsQuick() ? &flag_ : nullptr; }
  absl::StatusOr<bool> Wait() override;
  absl::Status AddKeys(const FltCall& call) override;
  absl::Status Merge(const FltCall& call) override;
  absl::Status Answer(const FltCall& call) override;
  absl::Status WriteState(const FltCall& call) override;
  absl::Status AddQueries(const FltBackCall& call) override;
  absl::Status DifferentiateQueries(const FltBackCall& call) override;
  absl::Status MergeQueries(const FltBackCall& call) override;
  absl::Status DifferentiateKeys(const FltBackCall& call) override;
  absl::Status AddTotals(const FltBackCall& call) override;

  size_t team_parts() const { return parts_.team; }
  size_t quick_parts() const { return parts_.quick; }
  size_t group_parts() const { return parts_.group; }
  size_t quick_back_parts() const { return parts_.quick_back; }
  // Launches of other programs than the quick one.
  size_t careful_calls() const { return careful_calls_; }
  size_t careful_back_calls() const { return careful_back_calls_; }

 private:
  bool IsQuick() const {
    return kind_ == FltProgramKind::kQuick || kind_ == FltProgramKind::kGroups;
  }

  const FltProgramKind kind_;
  FltPartCounts parts_;
  size_t careful_calls_ = 0, careful_back_calls_ = 0;
  uint32_t flag_ = 0;
};

}  // namespace mnemosyne::kernels::cuda
