// What the kernels of FLT attention are told, as plain structs: sizes, arrays, and the parts that
// sequences are cut into.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/device_functions.h"
#include "kernels/flt/flt_sizes.h"

namespace mnemosyne::kernels::cuda {

// Sizes in 32 bits, in which a GPU divides faster.
struct FltShape {
  uint32_t heads;
  uint32_t dim;          // D
  uint32_t values;       // Dv
  uint32_t positions;    // l
  uint32_t waves;        // r
  uint32_t wave_stride;  // r, padded as in FltKernel.
  uint32_t masks;        // F
  uint32_t inputs;       // E
  uint32_t features;     // M
  uint32_t projection;   // P
  uint32_t columns;      // P, padded.
  FeatureMapShape map;
  MaskForm form;
  float scale, epsilon;  // Of relu.

  static FltShape Of(const FltSizes& s) {
    const auto narrow = [](size_t x) { return static_cast<uint32_t>(x); };
    const auto padded = [&](size_t x) { return narrow((x + 15) / 16 * 16); };
    return {narrow(s.heads),
            narrow(s.dim),
            narrow(s.value_dim),
            narrow(s.positions),
            narrow(s.waves),
            padded(s.waves),
            narrow(FltMaskCount(s)),
            narrow(FltInputCount(s)),
            narrow(s.map.features),
            narrow(ProjectionCount(s.map)),
            padded(ProjectionCount(s.map)),
            s.map.shape,
            s.form,
            s.map.scale,
            s.map.epsilon};
  }

  // Numbers of the sums over keys of one head: maxima [M], Psi [F, M], N [F, M, Dv]. A running
  // state is these and an origin [l].
  MNEMOSYNE_ANYWHERE uint32_t SumCount() const {
    return features + masks * features * (1 + values);
  }
  MNEMOSYNE_ANYWHERE bool exponential() const {
    return map == FeatureMapShape::kExponential || map == FeatureMapShape::kHyperbolic;
  }
  MNEMOSYNE_ANYWHERE bool appends_waves() const { return form == MaskForm::kAdditive && waves > 0; }
};

// The arrays of a FltKernel, on the device.
struct FltWeights {
  const float *weights, *bias, *frequencies, *query_a, *query_b, *key_a, *key_b, *constants,
      *floors, *transposed;
  uint32_t transposed_stride;  // Of a row of `transposed` [sets, P, ...].
  uint32_t projection_sets;
  float root_scale;
};

enum class FltType : uint8_t { kFloat32, kBFloat16, kFloat16 };

// A tensor [batch, heads, length, dim], strides in elements.
struct FltTensor {
  void* data;
  size_t batch_stride, head_stride, row_stride;
};

struct FltArrays {
  FltTensor q, k, v, out;
  const uint8_t* mask;     // Or null.
  const float* positions;  // Or null.
  float* state;            // Or null.
  float* normalizers;      // Or null.
  size_t length;
  FltType type;
  bool causal, positions_per_batch;
};

// Rows of one sequence of one head.
struct FltPart {
  uint32_t batch, head;
  uint32_t start;  // First row of the sequence.
  uint32_t first, count;
  uint32_t unit;     // Number of the sequence in the call.
  uint32_t is_last;  // Of its sequence.
};

// A sequence of one head.
struct FltUnit {
  uint32_t first_part, part_count;
};

// What was found in a head of a batch entry: numbers that are not finite, and clamped rows.
struct FltCounts {
  uint32_t queries, keys, values, gradients, outputs, states, clamped;
};

// What the quick program's backward pass knows of a row of queries or of keys: what is taken off
// its logarithms, and the number that its values are extended by, 1 of a key and -(g . out) of a
// query.
struct FltRowNumber {
  float base, weight;
};

// One launch, over the parts of some units.
struct FltCall {
  FltShape shape;
  FltWeights weights;
  FltArrays arrays;
  const FltPart* parts;
  const FltUnit* units;
  uint32_t part_count, unit_count;
  uint32_t part_rows;  // Of the largest part.
  uint32_t tile_rows;
  float* sums;        // [parts, SumCount]: over the keys of a part.
  float* starts;      // [parts, SumCount] of causal parts, what they start from; else [units, ...].
  FltCounts* counts;  // [batch, heads]

  // Of the quick program: whether it may run; its weights, see FltPrepared; and a word that it sets
  // to 1 where a number is not finite, a position too large, or a number beyond float16. Then
  // nothing that was written counts, and the call has to run again without it.
  bool quick;
  uint32_t* prepared;
  uint32_t* flag;

  // Of its backward pass: whether queries and keys have changed places, so that `arrays.q` are keys
  // and `arrays.k` queries; and the numbers of both's rows, [batch, heads, length].
  bool mirrored;
  FltRowNumber *query_rows, *key_rows;
};

}  // namespace mnemosyne::kernels::cuda
