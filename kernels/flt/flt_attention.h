// FLT attention: linear attention whose relative positional encodings are sums of waves.
//
//   out_i = sum_j A_ij v_j / sum_j A_ij,   A_ij = phi(q~_i) . phi(k~_j)   (additive)
//                                   or     A_ij = phi(q_i) . phi(k_j) T(r_i - r_j) (multiplicative)
//
// over the valid keys j of the row's sequence, with j <= i if causal. Cost and memory are linear in
// the length; extra memory does not depend on it. Sums are float32 in a fixed order, so bits do not
// depend on threads. Keys keep a running maximum for each feature, by which their sums are scaled:
// nothing overflows, and a denominator of an exponential map is never below exp(-40). Phases are
// those of offsets from a sequence's first position, so that only offsets matter.
//
// Sources: arXiv 2302.01925 (FLT), arXiv 2009.14794 (FAVOR+), arXiv 2012.11346 (causal, in chunks);
// docs/flt.md has the equations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "base/data_type.h"
#include "kernels/flt/flt_kernel.h"

namespace mnemosyne::kernels {

// [batch, heads, length, dim]: rows are contiguous, the rest has strides, in elements.
struct TensorIn {
  const void* data = nullptr;
  size_t batch_stride = 0, head_stride = 0, row_stride = 0;
};
struct TensorOut {
  void* data = nullptr;
  size_t batch_stride = 0, head_stride = 0, row_stride = 0;
};

// Strides of a dense [batch, heads, length, dim].
inline TensorIn Dense(const void* data, size_t heads, size_t length, size_t dim) {
  return {data, heads * length * dim, length * dim, dim};
}
inline TensorOut DenseOut(void* data, size_t heads, size_t length, size_t dim) {
  return {data, heads * length * dim, length * dim, dim};
}

// Which rows attend to which.
struct FltRows {
  size_t batch = 1;
  size_t length = 0;  // Rows of a batch entry: 1 to kFltLengthMax.
  bool causal = false;

  // Packing: sequences of a batch entry are the rows from starts[s] to before starts[s + 1]; from 0
  // to `length`, ascending. Empty for one sequence. Host memory.
  std::span<const size_t> sequence_starts;

  // [batch, length]: 0 for padding, whose keys count nowhere and whose outputs are 0. Null for
  // none.
  const uint8_t* mask = nullptr;

  // [length, l], the same for all batch entries, or [batch, length, l]. Null without waves.
  const float* positions = nullptr;
  bool positions_per_batch = false;
};

// Rows whose denominator had to be held above its floor.
struct FltReport {
  size_t rows = 0;          // Of all heads.
  size_t clamped_rows = 0;  // Only with a mask that may be negative.
};

// Pointers are to device memory unless said otherwise.
struct FltAttentionArgs {
  const FltKernel* kernel = nullptr;  // Host.
  FltRows rows;
  DataType type = DataType::kFloat32;  // Of q, k, v and out: float32, bfloat16 or float16.
  TensorIn q, k;                       // [batch, heads, length, D]
  TensorIn v;                          // [batch, heads, length, Dv]
  TensorOut out;                       // [batch, heads, length, Dv]

  // A causal stream goes on where its state stands, and leaves it where the rows end; one sequence
  // a batch entry. [batch, heads, FltStateCount]: of each feature the greatest logarithm over the
  // keys, kFltNoKey over none (and 0 for maps that are no exponentials); Psi [F, M]; N [F, M, Dv],
  // the sums relative to those maxima; and the stream's first position [l], kFltNoKey before it.
  // InitFltState makes an empty one. Null for none.
  float* state = nullptr;

  // [batch, heads, length, 2]: of each row its stabilizer and its denominator, with a minus if it
  // was clamped, which the backward pass needs; null if it will not come.
  float* normalizers = nullptr;

  FltReport* report = nullptr;  // Host, or null.
};

// Gradients of a loss; those that are null are not wanted.
struct FltBackwardArgs {
  const FltKernel* kernel = nullptr;  // Host.
  FltRows rows;
  DataType type = DataType::kFloat32;  // Of the tensors.
  TensorIn q, k, v;                    // As they were given.
  TensorIn out;                        // As it came out.
  const float* normalizers = nullptr;  // As they came out.
  TensorIn out_gradient;
  TensorOut q_gradient, k_gradient, v_gradient;  // All three, or none.

  // Sums over batch and rows, float32, host memory.
  float* projection_gradient = nullptr;  // [sets, P, E]: of the projection as it was given.
  float* frequency_gradient = nullptr;   // [H, r, l]
  float* real_gradient = nullptr;        // [H, r]
  float* imaginary_gradient = nullptr;   // [H, r]
  float* constant_gradient = nullptr;    // [H]
};

// Sets `states` [count, FltStateCount] to those over no keys; host memory.
void InitFltState(const FltSizes& sizes, size_t count, float* states);

// The checks of both ops, the same for all backends; InvalidArgument says what is wrong. What needs
// the numbers themselves is checked by the ops: one that is not finite is InvalidArgument, too.
absl::Status Check(const FltAttentionArgs& args);
absl::Status Check(const FltBackwardArgs& args);

}  // namespace mnemosyne::kernels
