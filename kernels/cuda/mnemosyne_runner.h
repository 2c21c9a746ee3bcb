// Runs the flagship's kernels: tells the device of a step, of one state or of several, and adds up
// what tiles say.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/mnemosyne_plan.h"
#include "kernels/cuda/mnemosyne_tables.h"
#include "kernels/cuda/staging.h"
#include "kernels/cuda/table_cache.h"
#include "kernels/mnemosyne_step.h"

namespace mnemosyne::kernels::cuda {

// Thread-safety and errors: as Backend, whose part it is. Arguments are assumed to be checked.
class MnemosyneRunner {
 public:
  // Of a backend that outlives this and runs on `stream`, on a device of `processors`
  // multiprocessors.
  MnemosyneRunner(Backend& backend, cudaStream_t stream, unsigned processors)
      : backend_(backend), stream_(stream), processors_(processors) {}

  absl::Status Context(const MnemosyneContextArgs& args);
  absl::Status Step(const MnemosyneStepArgs& args);
  absl::Status Updates(const MnemosyneModel& model, std::span<const MnemosyneUpdateArgs> all);

 private:
  // What a call does.
  struct Parts {
    bool context, step, replay;
  };

  // Of states of one width.
  absl::Status UpdateAlike(const MnemosyneModel& model,
                           std::span<const MnemosyneUpdateArgs* const> all);

  // Forgets what the last step was told.
  void ClearSteps();
  // Appends what a state's step is told.
  void AddSteps(const MnemosyneMemory& memory, std::span<const size_t> parameters,
                std::span<const MnemosyneTensorStep> steps);

  // Runs `parts` for the states of `plan`, and waits: then tensor_sums_ and results_ are there.
  absl::Status Run(const MnemosyneModel& model, MnemosynePlan& plan, const Parts& parts);

  // What was said of a state whose parameters begin at `first_tensor`.
  void TakeTensorSums(size_t first_tensor, std::span<MnemosyneTensorSums> sums) const;
  // What was said of a state whose tiles begin at `tile`, and its parameters that take part at
  // `first_taking`. Returns where its tiles end.
  size_t TakeResults(const MnemosynePlan& plan, size_t tile, size_t first_taking,
                     std::span<double> square_sums, std::span<size_t> capped) const;

  Backend& backend_;
  const cudaStream_t stream_;
  const unsigned processors_;

  TableCache<MnemosynePlan> plans_;

  // What the next step is told.
  std::vector<MnemosyneTensorStep> steps_;
  std::vector<RoundingKeys> keys_;
  std::vector<float> mean_squares_;  // Unless it finds them out itself.

  Buffer inbox_, outbox_;  // Pinned.
  std::vector<std::byte> key_;
  Reserve inbox_there_, space_, scratch_;
  const TensorSums* tensor_sums_ = nullptr;  // In outbox_, like the next.
  const TileResult* results_ = nullptr;
};

}  // namespace mnemosyne::kernels::cuda
