// Puts the updates of a step together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "mnemosyne/optimize_stream.h"
#include "mnemosyne/v1/optimize_stream.pb.h"
#include "proto/codec/chunk_grid.h"
#include "proto/codec/frame_reader.h"

namespace mnemosyne {

// Checks each chunk of an answer and writes its elements, times their scale, to where they belong.
// Errors, all Internal with reason PROTOCOL_VIOLATION, are faults of the daemon or of the wire.
class StepReader {
 public:
  StepReader(const codec::ChunkGrid& grid, DataType encoding, MutableTensors updates);

  // Takes a chunk.
  absl::Status Take(const codec::ChunkView& chunk);

  // Ends the step: checks that every cell has come of every parameter but those in
  // `absent_parameters`, and sets the updates of skipped parameters that did not come to zero.
  absl::StatusOr<StepResult> Finish(const v1::StepDone& done,
                                    std::span<const int32_t> absent_parameters);

 private:
  const codec::ChunkGrid& grid_;
  const DataType encoding_;
  const MutableTensors updates_;
  std::vector<bool> seen_;          // [cells]
  std::vector<size_t> cells_left_;  // [parameters]
  std::vector<double> decays_;      // [parameters]
};

}  // namespace mnemosyne
