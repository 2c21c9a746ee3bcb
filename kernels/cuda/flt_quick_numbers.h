// What the quick program's backward pass knows of the rows of a part before all else: see
// FltRowNumber. Eight lanes take a row.
//
// Written over the threads of `T` and in the lanes of `W`; see flt_block.h and warp_functions.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_quick_rows.h"

namespace mnemosyne::kernels::cuda {

template <class T, class W, class Sizes>
class FltQuickNumbers {
  using F = typename W::Floats;
  using Rows = FltQuickRows<T, Sizes>;

 public:
  static constexpr uint32_t kRows = 4;  // Of a warp at a time.

  MNEMOSYNE_DEVICE FltQuickNumbers(const FltBackCall& back, const FltPart& part)
      : back_(back), call_(back.forward), part_(part) {}

  // Rows from `first` on, `rows` of them or kRows. Raises the flag where a number is not finite, or
  // a position too large.
  MNEMOSYNE_DEVICE void Write(uint32_t first, uint32_t rows) const {
    const FltShape& shape = call_.shape;
    const Rows queries(call_.arrays.q, part_, shape.dim), keys(call_.arrays.k, part_, shape.dim);
    const Rows outs(call_.arrays.out, part_, shape.values);
    const Rows gradients(back_.out_gradient, part_, shape.values);
    F query, key, dot;
    W::Each([&](auto here) {
      here(query) = here(key) = here(dot) = 0;
      const auto lane = static_cast<uint32_t>(here.lane);
      const uint32_t row = first + lane / 8, column = lane % 8 * 8;
      if (lane / 8 >= rows) return;
      if (shape.waves > 0 && lane % 8 < shape.positions) CheckPosition(row, lane % 8);
      if (!Valid(row)) return;
      float x[4][8];
      queries.ReadEight(row, column, x[0]);
      keys.ReadEight(row, column, x[1]);
      outs.ReadEight(row, column, x[2]);
      gradients.ReadEight(row, column, x[3]);
      MNEMOSYNE_UNROLL_ALL
      for (int i = 0; i < 8; ++i) {
        here(query) = fmaf(x[0][i], x[0][i], here(query));
        here(key) = fmaf(x[1][i], x[1][i], here(key));
        here(dot) = fmaf(x[2][i], x[3][i], here(dot));
      }
    });
    MNEMOSYNE_UNROLL_ALL
    for (int mask = 1; mask < 8; mask *= 2) {
      query = query + W::Exchange(query, mask);
      key = key + W::Exchange(key, mask);
      dot = dot + W::Exchange(dot, mask);
    }
    W::Each([&](auto here) {
      const auto lane = static_cast<uint32_t>(here.lane);
      if (lane % 8 != 0 || lane / 8 >= rows) return;
      const size_t row = first + lane / 8;
      const size_t at = (static_cast<size_t>(part_.batch) * call_.shape.heads + part_.head) *
                            call_.arrays.length +
                        row;
      const float half = 0.5F * call_.weights.root_scale * call_.weights.root_scale;
      const float* const normalizers = call_.arrays.normalizers + 2 * at;
      FltRowNumber of_query = kFltNoRowNumber, of_key = kFltNoRowNumber;
      if (Valid(row)) {
        of_key = {half * here(key), 1};
        if (normalizers[1] > 0) {
          of_query = {fmaf(half, here(query), normalizers[0] + logf(normalizers[1])), -here(dot)};
        }
        if (!IsFinite(here(query)) || !IsFinite(here(key)) || !IsFinite(here(dot)) ||
            !IsFinite(of_query.base)) {
          T::Raise(call_.flag);
        }
      }
      call_.query_rows[at] = of_query;
      call_.key_rows[at] = of_key;
    });
  }

 private:
  MNEMOSYNE_DEVICE void CheckPosition(size_t row, uint32_t axis) const {
    const size_t entry = call_.arrays.positions_per_batch ? part_.batch : 0;
    const float at =
        call_.arrays.positions[(entry * call_.arrays.length + row) * call_.shape.positions + axis];
    if (!(fabsf(at) <= kFltPositionLimit)) T::Raise(call_.flag);
  }
  MNEMOSYNE_DEVICE bool Valid(size_t row) const {
    return call_.arrays.mask == nullptr ||
           call_.arrays.mask[part_.batch * call_.arrays.length + row] != 0;
  }

  const FltBackCall& back_;
  const FltCall& call_;
  const FltPart& part_;
};

}  // namespace mnemosyne::kernels::cuda
