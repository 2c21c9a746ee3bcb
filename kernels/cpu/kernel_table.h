// The hot loops, one set for each instruction set.
//
// A file for an instruction set is compiled with flags of its own. It includes nothing but C and
// intrinsics headers, this one and the loops' headers, so that no inline function of a library is
// compiled with instructions that another file's copy must not have.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/coordinate_sizes.h"
#include "kernels/cpu/flt_table.h"
#include "kernels/lstm_sizes.h"
#include "kernels/mnemosyne_sizes.h"
#include "kernels/row_sizes.h"
#include "kernels/step_coefficients.h"

namespace mnemosyne::kernels::cpu {

// Most chunks that mnemosyne_update takes at once.
constexpr size_t kMnemosyneBatch = 4;

// Loops over one block of `count` elements. Those of a step return the sum of the squares of the
// updates. Pointers are to the block's first element; they need no alignment. Elementwise results
// of AVX2 and AVX-512 are the same bits, and so are the sums of all sets.
struct KernelTable {
  const char* name;
  void (*measure_gradients)(const float* values, size_t count, double* square_sum,
                            int64_t* non_finite_count);
  void (*zero_non_finite)(float* values, size_t count);
  double (*sgd_step)(const SgdCoefficients& coefficients, bool replay, size_t count, float* values,
                     float* momentum);
  double (*adam_step)(const AdamCoefficients& coefficients, bool replay, size_t count,
                      float* values, float* first_moment, float* second_moment);
  double (*lion_step)(const LionCoefficients& coefficients, bool replay, size_t count,
                      float* values, float* momentum, uint32_t* signs);
  // `hidden` and `cell` point to the first tile; a block starts a whole number of tiles after its
  // segment.
  double (*lstm_step)(const LstmSizes& sizes, const LstmCoefficients& coefficients,
                      const float* weights, bool replay, size_t count, float* values, float* hidden,
                      float* cell, float* mean, float* square);
  // The step of coordinate_step.h, for some coordinates of a tensor: what comes before S and q^ are
  // known, and the rest.
  void (*coordinate_moments)(const CoordinateRun& run);
  double (*coordinate_step)(const CoordinateModel& model, const float* weights, bool replay,
                            const CoordinateRun& run);
  // The ops of row_ops.h: over some rows, a group, or one step of one memory.
  void (*dense_layer)(const DenseSizes& sizes, size_t rows, const RowsIn& x, const float* weights,
                      const float* bias, const RowsOut& y);
  void (*feature_map)(const FeatureMapSizes& sizes, size_t rows, const RowsIn& x,
                      const float* weights, const float* bias, const RowsOut& phi);
  void (*bidirectional_attention)(const AttentionSizes& sizes, size_t rows, const RowsIn& phi_q,
                                  const RowsIn& phi_k, const RowsIn& values,
                                  const float* row_weights, const RowsOut& out);
  void (*additive_memory_step)(const AttentionSizes& sizes, float discount, const float* phi_q,
                               const float* phi_k, const float* value, float* content,
                               float* normalizer, float* out);
  void (*delta_memory_step)(const AttentionSizes& sizes, float discount, float beta,
                            const float* phi_q, const float* phi_k, const float* value,
                            float* content, float* out);
  // The ops of mnemosyne_step.h. `scratch` has mnemosyne_scratch_count floats, aligned to 64 bytes.
  // An update takes `count` chunks, at most kMnemosyneBatch, and writes the sum of the squares of
  // each one's updates to `square_sums`; whatever the others, a chunk's bits are the same. A
  // context takes `count` tokens and adds to `own` and `all`.
  size_t (*mnemosyne_scratch_count)(const MnemosyneSizes& sizes);
  void (*mnemosyne_update)(const MnemosyneModel& model, const MnemosyneChunkStep* steps,
                           size_t count, bool replay, float* scratch, double* square_sums);
  void (*mnemosyne_context)(const MnemosyneModel& model, size_t count, const float* tokens,
                            float* queries, float* own, float* all);
  // The parts of the ops of flt/flt_attention.h.
  FltTable flt;
};

extern const KernelTable kBaselineKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;    // Needs AVX2 and FMA.
extern const KernelTable kAvx512Kernels;  // Needs AVX2, FMA, AVX-512F, -DQ and -VL.
#endif

}  // namespace mnemosyne::kernels::cpu
