// The loops of kernel_table.h, written once over the types `Floats` and `SquareSum`. Each file for
// an instruction set defines these in an unnamed namespace and then includes this text.
// Floats is 16 lanes of float32, whatever the width of a register:
//   Floats Load(const float*), void Store(float*, Floats), Floats Splat(float)
//   Floats LoadFirst(const float*, size_t width): the first lanes, 0 to 16, from memory; the others
//   are 0. void StoreFirst(float*, Floats, size_t width)
//   + - * / on lanes, Floats Sqrt(Floats), Floats Min(a, b), Floats Max(a, b), and
//   Floats Fma(a, b, c): a * b + c, rounded once where the instruction set can
//   Floats SelectLess(a, b, x, y): x in the lanes where a < b, else y
//   Floats SplitExponent(x, &exponent): m, with x = m 2^exponent and 1 <= m < 2; x is positive,
//   finite and not denormal
//   Floats ScaleByPowerOfTwo(x, n): x 2^n, for whole n from -126 to 127
//   Floats ZeroNonFinite(Floats), int CountNonFinite(Floats)
//   void SumLanes(a, b, c, d, float* sums): the sum of the lanes of each; of x it is
//   ((y0 + y2) + (y1 + y3)) + ((y4 + y6) + (y5 + y7)), where yi = xi + x(i + 8)
//   void TransposeFour(const float* rows, size_t stride, float* columns): of 16 rows, `stride`
//   apart, the first four columns, [4, 16]
//   uint32_t Signs(Floats): a word as in LionCoefficients; Floats FromSigns(uint32_t)
// SquareSum adds up squares in float64, a sum a lane: the product of two floats is exact there.
//   void Add(Floats), void Store(double* lanes)

#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu/kernel_table.h"

// Before a short loop over an array of vectors: where g++ unrolls it late, the array is in memory.
#if defined(__clang__)
#define MNEMOSYNE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define MNEMOSYNE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace mnemosyne::kernels::cpu {
namespace {

constexpr size_t kLanes = 16;

// The last elements of a block, padded with zeros to a full vector.
struct Tail {
  alignas(64) float lanes[kLanes] = {};

  Tail(const float* source, size_t count) {
    for (size_t i = 0; i < count; ++i) lanes[i] = source[i];
  }
  void CopyTo(float* target, size_t count) const {
    for (size_t i = 0; i < count; ++i) target[i] = lanes[i];
  }
};

// Adds the lanes in a fixed tree.
inline double Total(const SquareSum& sum) {
  alignas(64) double lanes[kLanes];
  sum.Store(lanes);
  for (size_t width = kLanes / 2; width > 0; width /= 2) {
    for (size_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// Adds the squares of the first `count` lanes of `values`.
inline void AddFirst(SquareSum& sum, Floats values, size_t count) {
  alignas(64) float lanes[kLanes];
  Store(lanes, values);
  sum.Add(Load(Tail(lanes, count).lanes));
}

void MeasureGradients(const float* values, size_t count, double* square_sum,
                      int64_t* non_finite_count) {
  SquareSum sum;
  int64_t non_finite = 0;
  const auto measure = [&](const float* lanes) {
    const Floats g = Load(lanes);
    sum.Add(ZeroNonFinite(g));
    non_finite += CountNonFinite(g);
  };
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) measure(values + i);
  if (i < count) measure(Tail(values + i, count - i).lanes);
  *square_sum = Total(sum);
  *non_finite_count = non_finite;
}

void ZeroNonFiniteElements(float* values, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(values + i, ZeroNonFinite(Load(values + i)));
  if (i == count) return;
  Tail tail(values + i, count - i);
  Store(tail.lanes, ZeroNonFinite(Load(tail.lanes)));
  tail.CopyTo(values + i, count - i);
}

template <bool kReplay, bool kNesterov>
double SgdMomentum(const SgdCoefficients& c, size_t count, float* values, float* momentum) {
  const Floats scale = Splat(c.gradient_scale);
  const Floats decay = Splat(c.momentum);
  const Floats weight = Splat(c.gradient_weight);
  const bool first_step = c.first_step;
  const auto step = [&](float* g, float* b) {
    const Floats d = scale * Load(g);
    Floats buffer = Load(b);
    if (!kReplay) {
      buffer = first_step ? d : Fma(d, weight, decay * buffer);
      Store(b, buffer);
    }
    const Floats update = kNesterov ? Fma(buffer, decay, d) : buffer;
    Store(g, update);
    return update;
  };
  SquareSum sum;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum.Add(step(values + i, momentum + i));
  if (i < count) {
    Tail g(values + i, count - i), b(momentum + i, count - i);
    AddFirst(sum, step(g.lanes, b.lanes), count - i);
    g.CopyTo(values + i, count - i);
    if (!kReplay) b.CopyTo(momentum + i, count - i);
  }
  return Total(sum);
}

double SgdPlain(const SgdCoefficients& c, size_t count, float* values) {
  const Floats scale = Splat(c.gradient_scale);
  const auto step = [&](float* g) {
    const Floats update = scale * Load(g);
    Store(g, update);
    return update;
  };
  SquareSum sum;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum.Add(step(values + i));
  if (i < count) {
    Tail g(values + i, count - i);
    AddFirst(sum, step(g.lanes), count - i);
    g.CopyTo(values + i, count - i);
  }
  return Total(sum);
}

double SgdStep(const SgdCoefficients& c, bool replay, size_t count, float* values,
               float* momentum) {
  if (c.momentum == 0) return SgdPlain(c, count, values);
  if (replay) {
    return c.nesterov ? SgdMomentum<true, true>(c, count, values, momentum)
                      : SgdMomentum<true, false>(c, count, values, momentum);
  }
  return c.nesterov ? SgdMomentum<false, true>(c, count, values, momentum)
                    : SgdMomentum<false, false>(c, count, values, momentum);
}

template <bool kReplay>
double Adam(const AdamCoefficients& c, size_t count, float* values, float* first_moment,
            float* second_moment) {
  const Floats scale = Splat(c.gradient_scale);
  const Floats beta1 = Splat(c.beta1);
  const Floats one_minus_beta1 = Splat(c.one_minus_beta1);
  const Floats beta2 = Splat(c.beta2);
  const Floats one_minus_beta2 = Splat(c.one_minus_beta2);
  const Floats correction = Splat(c.bias_correction2_sqrt);
  const Floats epsilon = Splat(c.epsilon);
  const Floats negative_step_size = Splat(c.negative_step_size);
  const auto step = [&](float* values_at, float* m_at, float* v_at) {
    Floats m = Load(m_at);
    Floats v = Load(v_at);
    if (!kReplay) {
      const Floats d = scale * Load(values_at);
      m = Fma(d, one_minus_beta1, beta1 * m);
      v = Fma(one_minus_beta2 * d, d, beta2 * v);
      Store(m_at, m);
      Store(v_at, v);
    }
    const Floats update = (negative_step_size * m) / (Sqrt(v) / correction + epsilon);
    Store(values_at, update);
    return update;
  };
  SquareSum sum;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    sum.Add(step(values + i, first_moment + i, second_moment + i));
  }
  if (i < count) {
    const size_t rest = count - i;
    Tail g(values + i, rest), m(first_moment + i, rest), v(second_moment + i, rest);
    AddFirst(sum, step(g.lanes, m.lanes, v.lanes), rest);
    g.CopyTo(values + i, rest);
    if (!kReplay) {
      m.CopyTo(first_moment + i, rest);
      v.CopyTo(second_moment + i, rest);
    }
  }
  return Total(sum);
}

double AdamStep(const AdamCoefficients& c, bool replay, size_t count, float* values,
                float* first_moment, float* second_moment) {
  return replay ? Adam<true>(c, count, values, first_moment, second_moment)
                : Adam<false>(c, count, values, first_moment, second_moment);
}

template <bool kReplay>
double Lion(const LionCoefficients& c, size_t count, float* values, float* momentum,
            uint32_t* signs) {
  const Floats scale = Splat(c.gradient_scale);
  const Floats beta1 = Splat(c.beta1);
  const Floats one_minus_beta1 = Splat(c.one_minus_beta1);
  const Floats beta2 = Splat(c.beta2);
  const Floats one_minus_beta2 = Splat(c.one_minus_beta2);
  const auto step = [&](float* values_at, float* m_at, uint32_t* word) {
    if (!kReplay) {
      const Floats d = scale * Load(values_at);
      const Floats m = Load(m_at);
      *word = Signs(beta1 * m + one_minus_beta1 * d);
      Store(m_at, Fma(d, one_minus_beta2, beta2 * m));
    }
    const Floats update = FromSigns(*word);
    Store(values_at, update);
    return update;
  };
  SquareSum sum;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    sum.Add(step(values + i, momentum + i, signs + i / kSignsPerWord));
  }
  if (i < count) {
    const size_t rest = count - i;
    Tail g(values + i, rest), m(momentum + i, rest);
    AddFirst(sum, step(g.lanes, m.lanes, signs + i / kSignsPerWord), rest);
    g.CopyTo(values + i, rest);
    if (!kReplay) m.CopyTo(momentum + i, rest);
  }
  return Total(sum);
}

double LionStep(const LionCoefficients& c, bool replay, size_t count, float* values,
                float* momentum, uint32_t* signs) {
  return replay ? Lion<true>(c, count, values, momentum, signs)
                : Lion<false>(c, count, values, momentum, signs);
}

#include "kernels/cpu/elementary_functions.h"
#include "kernels/cpu/lstm_loops.h"
#include "kernels/cpu/row_loops.h"
// After what they are made of.
#include "kernels/cpu/cell_loops.h"
#include "kernels/cpu/flt_loops.h"
#include "kernels/cpu/token_loops.h"
// After these: the flagship's workspace,
#include "kernels/cpu/mnemosyne_coordinates.h"
// a chunk,
#include "kernels/cpu/mnemosyne_chunk_loops.h"
// a batch of chunks,
#include "kernels/cpu/mnemosyne_loops.h"
// and the coordinate-wise form.
#include "kernels/cpu/coordinate_loops.h"

constexpr KernelTable MakeTable(const char* name) {
  return {name,
          MeasureGradients,
          ZeroNonFiniteElements,
          SgdStep,
          AdamStep,
          LionStep,
          LstmStep,
          CoordinateMoments,
          CoordinateStep,
          DenseLayer,
          FeatureMap,
          BidirectionalAttention,
          AdditiveMemoryStep,
          DeltaMemoryStep,
          MnemosyneScratchCount,
          MnemosyneUpdate,
          MnemosyneContext,
          kFltTable};
}

}  // namespace
}  // namespace mnemosyne::kernels::cpu

#undef MNEMOSYNE_UNROLL
