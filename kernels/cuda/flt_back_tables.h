// What the kernels of the backward pass of FLT attention are told, as plain structs.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_tables.h"

namespace mnemosyne::kernels::cuda {

// Where the sums lie that gradients of a kernel's numbers are made of, those of one part.
struct FltGradientPlaces {
  uint32_t query_a, query_b, key_a, key_b;  // [r]
  uint32_t frequencies;                     // [l, r]
  uint32_t constant;                        // [1]
  uint32_t bias;                            // [P]
  uint32_t weights;                         // [P, E]
  uint32_t end = 0;

  MNEMOSYNE_ANYWHERE FltGradientPlaces(const FltShape& s, bool of_waves, bool of_projection) {
    const uint32_t waves = of_waves ? s.waves : 0, rows = of_projection ? s.projection : 0;
    query_a = Take(waves);
    query_b = Take(waves);
    key_a = Take(waves);
    key_b = Take(waves);
    frequencies = Take(waves * s.positions);
    constant = Take(1);
    bias = Take(rows);
    weights = Take(rows * s.inputs);
  }

 private:
  MNEMOSYNE_ANYWHERE uint32_t Take(uint32_t count) {
    const uint32_t start = end;
    end += count;
    return start;
  }
};

// One launch of the backward pass, over the parts of some units.
struct FltBackCall {
  // What the forward pass is told; `out` and `normalizers` are read. `starts` are used up.
  FltCall forward;
  FltTensor out_gradient;
  FltTensor q_gradient, k_gradient, v_gradient;  // Without data where they are not wanted.
  uint32_t tile_rows;
  bool of_waves, of_projection;  // Whose gradients are wanted.

  // Sums over queries, QuerySumCount each: maxima, sums of e, sums of g^ as FltCall::sums has those
  // of keys, and sums of e of clamped rows [M].
  float* sums;    // [parts, ...]: over the queries of a part.
  float* starts;  // [parts, ...] of causal parts: over the queries after them; else [units, ...].
  float* gradients;  // [parts, FltGradientPlaces::end], 0 before the first launch.
  double* totals;    // [heads, FltGradientPlaces::end], which is added to.

  MNEMOSYNE_ANYWHERE uint32_t QuerySumCount() const {
    return forward.shape.SumCount() + forward.shape.features;
  }
};

}  // namespace mnemosyne::kernels::cuda
