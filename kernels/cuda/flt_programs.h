// The programs that FLT attention on a GPU is made of, as the runner calls them: kernels on a GPU,
// and the same programs one thread after the other in tests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

// Queued in order, on device memory. Errors: Internal for a device fault.
class FltPrograms {
 public:
  virtual ~FltPrograms() = default;

  // Sets `size` bytes to 0.
  virtual absl::Status Clear(std::byte* data, size_t size) = 0;

  // Leaves count - i in `first_bad`, where i is the first of `count` coordinates that is not a
  // number within kFltPositionLimit; what was there, 0, if there is none.
  virtual absl::Status CheckPositions(const float* positions, size_t count,
                                      uint64_t* first_bad) = 0;

  // Sets FltCall::prepared of a call that the quick program takes.
  virtual absl::Status Prepare(const FltCall& call) = 0;

  // The word of FltCall::flag: 0, unless a program has raised it since Wait was last called. Null
  // if there is no quick program.
  virtual absl::StatusOr<uint32_t*> Flag() = 0;

  // Waits for all that is queued; returns whether the flag was raised, and lowers it.
  virtual absl::StatusOr<bool> Wait() = 0;

  // The sums over the keys of all parts; of causal sequences not of the last part, and without
  // counting faults, which Answer does.
  virtual absl::Status AddKeys(const FltCall& call) = 0;

  // What parts start from, or read from; see FltCall::starts. Counts states that are not finite.
  virtual absl::Status Merge(const FltCall& call) = 0;

  // The outputs.
  virtual absl::Status Answer(const FltCall& call) = 0;

  // The state, after Answer.
  virtual absl::Status WriteState(const FltCall& call) = 0;

  // Of the quick backward pass: numbers of rows, and the sums over queries.
  virtual absl::Status AddQueries(const FltBackCall& call) = 0;

  // Of the backward pass, after AddKeys and Merge: what queries get, with the sums over them; what
  // parts read of these; what keys and values get; and the sums of the parts' gradients.
  virtual absl::Status DifferentiateQueries(const FltBackCall& call) = 0;
  virtual absl::Status MergeQueries(const FltBackCall& call) = 0;
  virtual absl::Status DifferentiateKeys(const FltBackCall& call) = 0;
  virtual absl::Status AddTotals(const FltBackCall& call) = 0;
};

}  // namespace mnemosyne::kernels::cuda
