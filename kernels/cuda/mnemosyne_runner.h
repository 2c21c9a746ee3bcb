// Runs the flagship's kernels: cuts a session's chunks into tiles, tells the device of a step, and
// adds up what tiles say.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/mnemosyne_tables.h"
#include "kernels/cuda/staging.h"
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

 private:
  // Appends the tiles of a parameter to tiles_.
  void AddTiles(const MnemosyneMemory& memory, size_t tensor, size_t taking);

  Backend& backend_;
  const cudaStream_t stream_;
  const unsigned processors_;

  std::vector<ChunkTile> tiles_;
  std::vector<uint32_t> first_tiles_;
  std::vector<float> mean_squares_;
  std::vector<RoundingKeys> keys_;
  Staging all_tiles_, taking_tiles_, staging_;
  Landing landing_;
  Reserve space_, scratch_;
};

}  // namespace mnemosyne::kernels::cuda
