// Ops over many small rows (tokens of 16 to 64 numbers): the parts that attention is made of.
//
// Rows, groups and memories are independent of each other, so their bits do not depend on how the
// batch is spread over threads. Sums are float32, one fused multiply-add after the other in the
// order of their index; the baseline instruction set rounds the products, too. All pointers are to
// device memory unless said otherwise. Inputs and outputs must not overlap.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/row_sizes.h"

namespace mnemosyne::kernels {

// A dense layer for each row.
struct DenseLayerArgs {
  size_t rows = 0;
  DenseSizes sizes;
  RowsIn x;                        // [rows, inputs]
  const float* weights = nullptr;  // [inputs, outputs]
  const float* bias = nullptr;     // [outputs], or null for none; null with accumulate.
  RowsOut y;                       // [rows, outputs]
};

// Features phi(x) of queries or keys, for each row.
//
// Sources: arXiv 2009.14794 (FAVOR+, its hyperbolic and ReLU forms), arXiv 2205.15317 (FAVOR++),
// arXiv 2006.16236 (elu + 1), arXiv 2102.11174 (DPFP).
struct FeatureMapArgs {
  size_t rows = 0;
  FeatureMapSizes sizes;
  RowsIn x;                        // [rows, d]
  const float* weights = nullptr;  // [d, ProjectionCount(sizes)]; null if there are none.
  const float* bias = nullptr;     // [M] of kExponential, or null for none.
  RowsOut phi;                     // [rows, M]
};

// Bi-directional linear attention within groups of rows: for a query i,
//
//   out_i = phi(q_i)^T N / phi(q_i)^T Psi,   N = sum_j c_j phi(k_j) v_j^T,  Psi = sum_j c_j
//   phi(k_j)
//
// over the rows j of its group, each with its weight c_j. 0 where the denominator is about 0.
//
// Source: arXiv 2006.16236, equations 4 and 5.
struct BidirectionalAttentionArgs {
  std::span<const size_t> group_starts;  // [groups + 1], host: rows of group g are from [g] to
                                         // before [g + 1]; ascending, from 0.
  AttentionSizes sizes;
  RowsIn phi_q;                        // [rows, M]
  RowsIn phi_k;                        // [rows, M]
  RowsIn values;                       // [rows, D]
  const float* row_weights = nullptr;  // [rows], 0 for padding; null for all 1.
  RowsOut out;                         // [rows, D]
};

// What the ops on memories in time share: B memories that each take L steps. Memory b has the
// discount b mod heads, and its values are those of sequence b / heads, so that heads with
// discounts of their own can share them.
struct MemoryArgs {
  size_t memories = 0;  // B
  size_t steps = 1;     // L
  size_t heads = 1;     // J: divides B.
  AttentionSizes sizes;
  const float* discounts = nullptr;  // [J]: lambda
  const float* phi_q = nullptr;      // [B, L, M]
  const float* phi_k = nullptr;      // [B, L, M]
  const float* values = nullptr;     // [B / J, L, D]
  float* content = nullptr;          // [B, M, D]: N, advanced.
  float* out = nullptr;              // [B, L, D]: what is read after each write.
};

// Compact associative memory, additive with discount; from an empty memory it is causal linear
// attention:
//
//   N <- lambda N + phi(k) v^T,   Psi <- lambda Psi + phi(k),   out = phi(q)^T N / phi(q)^T Psi
//
// Sources: arXiv 2302.01128; arXiv 2012.11346 for the form over a sequence.
struct AdditiveMemoryArgs {
  MemoryArgs memory;
  float* normalizer = nullptr;  // [B, M]: Psi, advanced.
};

// Delta rule: what a key holds is corrected toward the new value. With features divided by their
// sum (0 where that is about 0):
//
//   N <- lambda N;   N <- N + beta phi(k) (v - phi(k)^T N)^T;   out = phi(q)^T N
//
// The recurrent form, in which q, k, v and beta see tanh of the last output, is made of this and of
// dense layers that accumulate.
//
// Sources: arXiv 2102.11174, section 4.2; arXiv 2106.06295 for the recurrent form.
struct DeltaMemoryArgs {
  MemoryArgs memory;
  const float* betas = nullptr;  // [B, L], in [0, 1]
};

}  // namespace mnemosyne::kernels
