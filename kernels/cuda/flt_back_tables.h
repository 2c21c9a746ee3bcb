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
  // What the forward pass is told; `out` and `normalizers` are read. `starts` are used up. `quick`
  // is whether the quick program forms the sums over keys.
  FltCall forward;
  FltTensor out_gradient;
  FltTensor q_gradient, k_gradient, v_gradient;  // Without data where they are not wanted.
  uint32_t tile_rows;
  bool of_waves, of_projection;  // Whose gradients are wanted.
  bool quick;                    // Whether the quick program runs.

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

// The half of a launch of the quick program in which the rows of one side, the readers, get
// gradients from the sums over the other side.
struct FltSide {
  FltCall call;                          // Readers are `arrays.q`; the others `arrays.k` and `.v`.
  FltTensor values;                      // Of readers: out_gradient of queries, v of keys.
  FltTensor x_gradient, value_gradient;  // Of readers; without data where they are not wanted.
  float* sums;                           // [parts, sum_count]: over the others.
  const float* starts;                   // [parts or units, sum_count]: what readers start from.
  uint32_t sum_count;
  float* gradients;  // [parts, gradient_count], which is added to.
  uint32_t gradient_count;
  uint32_t of_a, of_b, of_frequencies;  // Places of the readers' gradients.
  bool of_waves;

  // Whose readers are queries, or keys.
  static FltSide OfQueries(const FltBackCall& back) {
    const FltGradientPlaces at(back.forward.shape, back.of_waves, back.of_projection);
    return {.call = back.forward,
            .values = back.out_gradient,
            .x_gradient = back.q_gradient,
            .value_gradient = {},
            .sums = back.forward.sums,
            .starts = back.forward.starts,
            .sum_count = back.forward.shape.SumCount(),
            .gradients = back.gradients,
            .gradient_count = at.end,
            .of_a = at.query_a,
            .of_b = at.query_b,
            .of_frequencies = at.frequencies,
            .of_waves = back.of_waves};
  }
  static FltSide OfKeys(const FltBackCall& back) {
    FltSide side = OfQueries(back);
    const FltGradientPlaces at(back.forward.shape, back.of_waves, back.of_projection);
    FltCall& call = side.call;
    call.mirrored = true;
    call.arrays.q = back.forward.arrays.k;
    call.arrays.k = back.forward.arrays.q;
    call.arrays.v = back.out_gradient;
    call.query_rows = back.forward.key_rows;
    call.key_rows = back.forward.query_rows;
    side.values = back.forward.arrays.v;
    side.x_gradient = back.k_gradient;
    side.value_gradient = back.v_gradient;
    side.sums = back.sums;
    side.starts = back.starts;
    side.sum_count = back.QuerySumCount();
    side.of_a = at.key_a;
    side.of_b = at.key_b;
    return side;
  }
};

}  // namespace mnemosyne::kernels::cuda
