// Runs the kernels of the coordinate-wise optimizer.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/coordinate_step.h"
#include "kernels/cuda/coordinate_tables.h"
#include "kernels/cuda/staging.h"

namespace mnemosyne::kernels::cuda {

// Thread-safety and errors: as Backend, whose part it is. Arguments are assumed to be checked.
class CoordinateRunner {
 public:
  // Of a backend that outlives this and runs on `stream`.
  CoordinateRunner(Backend& backend, cudaStream_t stream) : backend_(backend), stream_(stream) {}

  absl::Status Step(const CoordinateStepArgs& args);

 private:
  // Lists segments, their axes and their blocks.
  void List(const CoordinateStepArgs& args);

  Backend& backend_;
  const cudaStream_t stream_;

  std::vector<Block> blocks_;
  std::vector<uint32_t> first_blocks_;
  std::vector<CoordinatePlace> places_;
  std::vector<CoordinateAxis> axes_;
  std::vector<CoordinateMeans> axis_blocks_;
  size_t axis_mean_count_ = 0;
  Landing landing_;
  Staging staging_;
  Reserve space_;
};

}  // namespace mnemosyne::kernels::cuda
