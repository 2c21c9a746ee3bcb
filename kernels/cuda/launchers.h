// Starts the kernels of the CUDA backend. Includes the CUDA runtime and plain structs only, so that
// the .cu files need nothing else.
//
// Every pointer is to device memory. A launcher returns once its kernel is queued on `stream`.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/coordinate_tables.h"
#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_tables.h"
#include "kernels/cuda/mnemosyne_tables.h"
#include "kernels/lstm_sizes.h"
#include "kernels/row_sizes.h"
#include "kernels/segment.h"
#include "kernels/step_coefficients.h"

namespace mnemosyne::kernels::cuda {

// Elements of a block of work, one for each block of threads: a multiple of a warp's.
inline constexpr size_t kBlockElements = 4096;

// A kernel that fails, for tests.
cudaError_t LaunchTrap(cudaStream_t stream);

cudaError_t LaunchZeroNonFinite(const Block* blocks, size_t block_count, float* values,
                                cudaStream_t stream);

cudaError_t LaunchSetZero(const Block* blocks, size_t block_count, float* values,
                          cudaStream_t stream);

// Elements in a row of the arenas of a state, for one block of threads. Arenas that the rule has
// not are null.
struct StepBlock {
  float* values;
  float* first;
  float* second;
  uint32_t* signs;
  uint32_t segment;  // Whose coefficients these elements have.
  uint32_t count;
};

// square_sums, non_finite_counts: [block_count]
cudaError_t LaunchMeasureGradients(const StepBlock* blocks, size_t block_count, double* square_sums,
                                   int64_t* non_finite_counts, cudaStream_t stream);

// coefficients: [segments]; square_sums: [block_count]
cudaError_t LaunchSgdStep(const StepBlock* blocks, size_t block_count,
                          const SgdCoefficients* coefficients, bool replay, double* square_sums,
                          cudaStream_t stream);

cudaError_t LaunchAdamStep(const StepBlock* blocks, size_t block_count,
                           const AdamCoefficients* coefficients, bool replay, double* square_sums,
                           cudaStream_t stream);

cudaError_t LaunchLionStep(const StepBlock* blocks, size_t block_count,
                           const LionCoefficients* coefficients, bool replay, double* square_sums,
                           cudaStream_t stream);

// mean, square: null unless sizes.normalized
cudaError_t LaunchLstmStep(const Block* blocks, size_t block_count,
                           const LstmCoefficients* coefficients, const LstmSizes& sizes,
                           const float* weights, bool replay, float* values, float* hidden,
                           float* cell, float* mean, float* square, double* square_sums,
                           cudaStream_t stream);

// What the ops on memories share, as row_ops.h has it.
struct MemoryArgsOnDevice {
  size_t steps;
  size_t heads;
  AttentionSizes sizes;
  const float* discounts;
  const float* phi_q;
  const float* phi_k;
  const float* values;
  float* content;
  float* out;
};

cudaError_t LaunchDenseLayer(const DenseSizes& sizes, size_t rows, const RowsIn& x,
                             const float* weights, const float* bias, const RowsOut& y,
                             cudaStream_t stream);

cudaError_t LaunchFeatureMap(const FeatureMapSizes& sizes, size_t rows, const RowsIn& x,
                             const float* weights, const float* bias, const RowsOut& phi,
                             cudaStream_t stream);

// starts: [group_count + 1]
cudaError_t LaunchBidirectionalAttention(const size_t* starts, size_t group_count,
                                         const AttentionSizes& sizes, const RowsIn& phi_q,
                                         const RowsIn& phi_k, const RowsIn& values,
                                         const float* row_weights, const RowsOut& out,
                                         cudaStream_t stream);

cudaError_t LaunchAdditiveMemory(const MemoryArgsOnDevice& args, size_t memories, float* normalizer,
                                 cudaStream_t stream);

cudaError_t LaunchDeltaMemory(const MemoryArgsOnDevice& args, size_t memories, const float* betas,
                              cudaStream_t stream);

// Leaves the sums of squares of the updates' blocks in tables.square_sums.
cudaError_t LaunchCoordinateStep(const CoordinateTables& tables, const CoordinateModel& model,
                                 const CoordinateArrays& arrays, bool replay, cudaStream_t stream);

// level_counts: [level_count], host: sums of each level of tables.sums.
cudaError_t LaunchMnemosyneContext(const MnemosyneModel& model, const MnemosyneStates& states,
                                   const MnemosyneContextTables& tables,
                                   const uint32_t* level_counts, size_t level_count,
                                   const MnemosyneContextSpace& space, cudaStream_t stream);

// Floats of scratch that a block of the step needs; 0 if the model has the shipped sizes.
size_t StepScratchCount(const MnemosyneSizes& sizes);

// processors: multiprocessors of the device.
cudaError_t LaunchMnemosyneStep(const MnemosyneModel& model, const MnemosyneStates& states,
                                const MnemosyneStepTables& tables, const MnemosyneStepSpace& space,
                                bool replay, unsigned processors, cudaStream_t stream);

// The programs of FLT attention; see flt_programs.h.
cudaError_t LaunchFltPositions(const float* positions, size_t count, uint64_t* first_bad,
                               cudaStream_t stream);
// Those of the quick program return whether it takes the call.
bool LaunchFltQuickKeys(const FltCall& call, cudaStream_t stream, cudaError_t* error);
bool LaunchFltQuickAnswer(const FltCall& call, cudaStream_t stream, cudaError_t* error);
// The same of groups of warps, which take some of these calls on some devices.
bool LaunchFltGroupKeys(const FltCall& call, cudaStream_t stream, cudaError_t* error);
bool LaunchFltGroupAnswer(const FltCall& call, cudaStream_t stream, cudaError_t* error);
// Of its backward pass: the numbers of rows with the sums over queries, and both sides' gradients.
cudaError_t LaunchFltQuickRows(const FltBackCall& call, cudaStream_t stream);
cudaError_t LaunchFltQuickBackQueries(const FltBackCall& call, cudaStream_t stream);
cudaError_t LaunchFltQuickBackKeys(const FltBackCall& call, cudaStream_t stream);
cudaError_t LaunchFltPreparation(const FltCall& call, cudaStream_t stream);
cudaError_t LaunchFltKeys(const FltCall& call, cudaStream_t stream);
cudaError_t LaunchFltMerge(const FltCall& call, cudaStream_t stream);
cudaError_t LaunchFltAnswer(const FltCall& call, cudaStream_t stream);
cudaError_t LaunchFltState(const FltCall& call, cudaStream_t stream);
cudaError_t LaunchFltBackQueries(const FltBackCall& call, cudaStream_t stream);
cudaError_t LaunchFltBackMerge(const FltBackCall& call, cudaStream_t stream);
cudaError_t LaunchFltBackKeys(const FltBackCall& call, cudaStream_t stream);
cudaError_t LaunchFltBackTotals(const FltBackCall& call, cudaStream_t stream);

}  // namespace mnemosyne::kernels::cuda
