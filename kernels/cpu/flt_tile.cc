#include "kernels/cpu/flt_tile.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"

namespace mnemosyne::kernels::cpu {
namespace {

Matrix From(const Matrix& matrix, size_t row) {
  return {matrix.data + row * matrix.stride, matrix.stride};
}

const std::byte* RowOf(const TensorIn& tensor, DataType type, const FltSpan& span, size_t row) {
  const size_t at = span.batch * tensor.batch_stride + span.head * tensor.head_stride +
                    (span.first + row) * tensor.row_stride;
  return static_cast<const std::byte*>(tensor.data) + at * ElementSize(type);
}

}  // namespace

void FltScratch::Reset(size_t floats) {
  used_ = 0;
  const size_t needed = floats / 16 + 1;
  if (lines_.size() < needed) lines_.resize(needed);
}

float* FltScratch::Take(size_t count) {
  const size_t lines = Padded(count) / 16;
  MNEMO_CHECK(used_ + lines <= lines_.size());
  float* const piece = lines_[used_].floats;
  used_ += lines;
  std::fill_n(piece, lines * 16, 0.0F);
  return piece;
}

FltPadded PaddedSizes(const FltSizes& sizes) {
  return {.inputs = Padded(FltInputCount(sizes)),
          .projection = Padded(ProjectionCount(sizes.map)),
          .features = Padded(sizes.map.features),
          .values = Padded(sizes.value_dim),
          .masks = FltMaskCount(sizes)};
}

size_t FltSums::Count(const FltSizes& sizes) {
  const FltPadded padded = PaddedSizes(sizes);
  return padded.features * (1 + padded.masks * (1 + padded.values));
}

FltSums FltSums::At(const FltSizes& sizes, float* memory) {
  const FltPadded padded = PaddedSizes(sizes);
  float* const psi = memory + padded.features;
  return {memory, psi, psi + padded.masks * padded.features};
}

void ClearSums(const FltSizes& sizes, const FltSums& sums) {
  std::fill_n(sums.maxima, FltSums::Count(sizes), 0.0F);
  if (!IsExponential(sizes.map.shape)) return;
  std::fill_n(sums.maxima, sizes.map.features, kFltNoKey);
}

void MergeSums(const FltTable& loops, const FltSizes& sizes, const FltSums& from,
               const FltSums& to) {
  const FltPadded padded = PaddedSizes(sizes);
  const size_t columns = padded.features;
  std::vector<float> factors(2 * columns, 1);
  float* const of_from = factors.data();
  float* const of_to = factors.data() + columns;
  if (IsExponential(sizes.map.shape)) {
    std::vector<float> maxima(to.maxima, to.maxima + columns);
    loops.column_maxima(1, columns, {from.maxima, columns}, maxima.data());
    std::copy_n(from.maxima, columns, of_from);
    std::copy_n(to.maxima, columns, of_to);
    loops.exponentials(2, columns, {factors.data(), columns}, maxima.data());
    std::copy_n(maxima.data(), columns, to.maxima);
  }
  for (size_t f = 0; f < padded.masks; ++f) {
    float* const psi = to.psi + f * columns;
    float* const other = from.psi + f * columns;
    for (size_t m = 0; m < columns; ++m) psi[m] = of_to[m] * psi[m] + of_from[m] * other[m];
    const Matrix n = {to.n + f * columns * padded.values, padded.values};
    const Matrix added = {from.n + f * columns * padded.values, padded.values};
    loops.scale_rows(columns, padded.values, n, of_to, n);
    loops.add_scaled_rows(columns, padded.values, of_from, added, n);
  }
}

bool ReadState(const FltSizes& sizes, const float* state, const FltSums& sums) {
  const FltPadded padded = PaddedSizes(sizes);
  const size_t features = sizes.map.features, width = sizes.value_dim;
  ClearSums(sizes, sums);
  if (!std::all_of(state, state + FltStateCount(sizes), [](float x) { return std::isfinite(x); })) {
    return false;
  }
  std::copy_n(state, features, sums.maxima);
  state += features;
  for (size_t f = 0; f < padded.masks; ++f, state += features) {
    std::copy_n(state, features, sums.psi + f * padded.features);
  }
  for (size_t f = 0; f < padded.masks; ++f) {
    for (size_t m = 0; m < features; ++m, state += width) {
      std::copy_n(state, width, sums.n + (f * padded.features + m) * padded.values);
    }
  }
  return true;
}

void WriteState(const FltSizes& sizes, const FltSums& sums, float* state) {
  const FltPadded padded = PaddedSizes(sizes);
  const size_t features = sizes.map.features, width = sizes.value_dim;
  state = std::copy_n(sums.maxima, features, state);
  for (size_t f = 0; f < padded.masks; ++f) {
    state = std::copy_n(sums.psi + f * padded.features, features, state);
  }
  for (size_t f = 0; f < padded.masks; ++f) {
    for (size_t m = 0; m < features; ++m) {
      state = std::copy_n(sums.n + (f * padded.features + m) * padded.values, width, state);
    }
  }
}

FltTile::FltTile(const FltTable& loops, const FltKernel& kernel, const FltRows& rows, DataType type,
                 size_t tile_rows, FltScratch& scratch)
    : loops_(loops),
      kernel_(kernel),
      rows_(rows),
      type_(type),
      tile_rows_(tile_rows),
      padded_(PaddedSizes(kernel.sizes)) {
  const size_t masks = Padded(padded_.masks), waves = Padded(kernel.sizes.waves);
  for (FltSide* side : {&queries, &keys}) {
    side->x = scratch.Take(tile_rows, padded_.inputs);
    side->logits = scratch.Take(tile_rows, padded_.projection);
    side->features = scratch.Take(tile_rows, padded_.features);
    side->masks = scratch.Take(tile_rows, masks);
    side->columns = scratch.Take(masks * tile_rows);
  }
  maxima_ = scratch.Take(padded_.features);
  factors_ = scratch.Take(padded_.features);
  ones_ = scratch.Take(waves);
  zeros_ = scratch.Take(waves);
  std::fill_n(ones_, waves, 1.0F);
  scaled_ = scratch.Take(tile_rows, std::max(padded_.features, padded_.values));
}

size_t FltTile::ScratchCount(const FltSizes& sizes, size_t tile_rows) {
  const FltPadded padded = PaddedSizes(sizes);
  const size_t masks = Padded(padded.masks);
  const size_t side = padded.inputs + padded.projection + padded.features + 2 * masks;
  return tile_rows * (2 * side + padded.features + padded.values) + 2 * padded.features +
         2 * Padded(sizes.waves) + 256;
}

size_t FltTile::LoadRows(const FltSpan& span, const TensorIn& tensor, size_t width, float scale,
                         Matrix to) {
  for (size_t row = 0; row < span.count; ++row) {
    float* const target = to.data + row * to.stride;
    if (Valid(span, row)) {
      DecodeElements(type_, RowOf(tensor, type_, span, row), target, width);
    } else {
      std::fill_n(target, width, 0.0F);
    }
  }
  return loops_.scale_and_count(span.count, Padded(width), scale, to);
}

void FltTile::StoreRows(const FltSpan& span, Matrix from, size_t width,
                        const TensorOut& tensor) const {
  for (size_t row = 0; row < span.count; ++row) {
    const size_t at = span.batch * tensor.batch_stride + span.head * tensor.head_stride +
                      (span.first + row) * tensor.row_stride;
    EncodeElements(type_, from.data + row * from.stride,
                   static_cast<std::byte*>(tensor.data) + at * ElementSize(type_), width);
  }
}

const float* FltTile::Positions(const FltSpan& span) const {
  const size_t entry = rows_.positions_per_batch ? span.batch : 0;
  return rows_.positions + (entry * rows_.length + span.first) * kernel_.sizes.positions;
}

void FltTile::Waves(const FltSpan& span, bool of_keys, bool unit, float* first, float* second,
                    size_t stride) const {
  const FltSizes& sizes = kernel_.sizes;
  const size_t padded = Padded(sizes.waves), at = span.head * padded;
  const float* const a = of_keys ? kernel_.key_a.data() : kernel_.query_a.data();
  const float* const b = of_keys ? kernel_.key_b.data() : kernel_.query_b.data();
  loops_.waves({.rows = span.count,
                .waves = sizes.waves,
                .dimensions = sizes.positions,
                .positions = Positions(span),
                .origin = span.origin,
                .frequencies = kernel_.frequencies.data() + at * sizes.positions,
                .a = unit ? ones_ : a + at,
                .b = unit ? zeros_ : b + at,
                .wave_stride = padded,
                .first = first,
                .second = second,
                .stride = stride});
}

size_t FltTile::Load(const FltSpan& span, const TensorIn& tensor, bool of_keys, FltSide& side) {
  const FltSizes& sizes = kernel_.sizes;
  const size_t bad = LoadRows(span, tensor, sizes.dim, kernel_.root_scale, side.x);
  if (sizes.waves > 0) {
    const bool additive = sizes.form == MaskForm::kAdditive;
    const Matrix to = additive ? side.x : side.masks;
    float* const first = to.data + (additive ? sizes.dim : 1);
    Waves(span, of_keys, /*unit=*/false, first, first + sizes.waves, to.stride);
    if (!additive) {
      const float constant = of_keys ? 1 : kernel_.constants[span.head];
      for (size_t row = 0; row < span.count; ++row) to.data[row * to.stride] = constant;
      Transpose(to, span.count, padded_.masks, {side.columns, tile_rows_});
    }
  }
  const size_t set = kernel_.projection_sets > 1 ? span.head : 0;
  if (padded_.projection > 0) {
    loops_.multiply({.a = side.x.data,
                     .a_row = side.x.stride,
                     .a_inner = 1,
                     .b = kernel_.weights.data() + set * FltInputCount(sizes) * padded_.projection,
                     .b_stride = padded_.projection,
                     .c = side.logits.data,
                     .c_stride = side.logits.stride,
                     .rows = span.count,
                     .inner = FltInputCount(sizes),
                     .columns = padded_.projection,
                     .accumulate = false});
  }
  loops_.features(
      {.sizes = sizes.map,
       .rows = span.count,
       .x = side.x,
       .logits = side.logits,
       .bias = kernel_.bias.empty() ? nullptr : kernel_.bias.data() + set * padded_.projection,
       .features = side.features,
       .columns = padded_.features});
  const float none = IsExponential(sizes.map.shape) ? kFltNoKey : 0;
  for (size_t row = 0; row < span.count; ++row) {
    if (Valid(span, row)) continue;
    std::fill_n(side.features.data + row * side.features.stride, padded_.features, none);
  }
  return bad;
}

void FltTile::Raise(const FltSide& side, size_t begin, size_t end, const FltSums& sums) {
  if (!IsExponential(kernel_.sizes.map.shape)) return;
  const size_t columns = padded_.features;
  std::copy_n(sums.maxima, columns, maxima_);
  loops_.column_maxima(end - begin, columns, From(side.features, begin), maxima_);
  if (std::equal(maxima_, maxima_ + columns, sums.maxima)) return;
  std::copy_n(sums.maxima, columns, factors_);
  loops_.exponentials(1, columns, {factors_, columns}, maxima_);
  std::copy_n(maxima_, columns, sums.maxima);
  for (size_t f = 0; f < padded_.masks; ++f) {
    loops_.multiply_elements(1, columns, {sums.psi + f * columns, columns}, {factors_, columns});
    const Matrix n = {sums.n + f * columns * padded_.values, padded_.values};
    loops_.scale_rows(columns, padded_.values, n, factors_, n);
  }
}

void FltTile::Exponentiate(const FltSpan& span, const FltSums& sums, size_t begin, size_t end,
                           FltSide& side) {
  if (!IsExponential(kernel_.sizes.map.shape)) return;
  loops_.exponentials(end - begin, padded_.features, From(side.features, begin), sums.maxima);
  for (size_t row = begin; row < end; ++row) {
    if (Valid(span, row)) continue;
    std::fill_n(side.features.data + row * side.features.stride, padded_.features, 0.0F);
  }
}

Matrix FltTile::Scaled(Matrix x, size_t begin, size_t end, size_t columns, const float* factors) {
  const Matrix to = {scaled_.data, columns};
  loops_.scale_rows(end - begin, columns, From(x, begin), factors + begin, to);
  return to;
}

void FltTile::Add(const FltSide& side, Matrix values, size_t begin, size_t end,
                  const FltSums& sums) {
  const size_t columns = padded_.features;
  const Matrix phi = From(side.features, begin);
  if (padded_.masks == 1) {
    loops_.column_sums(end - begin, columns, phi, sums.psi);
  } else {
    loops_.multiply({.a = side.columns + begin,
                     .a_row = tile_rows_,
                     .a_inner = 1,
                     .b = phi.data,
                     .b_stride = phi.stride,
                     .c = sums.psi,
                     .c_stride = columns,
                     .rows = padded_.masks,
                     .inner = end - begin,
                     .columns = columns,
                     .accumulate = true});
  }
  for (size_t f = 0; f < padded_.masks; ++f) {
    const Matrix v = padded_.masks == 1 ? From(values, begin)
                                        : Scaled(values, begin, end, padded_.values,
                                                 side.columns + f * tile_rows_);
    loops_.multiply({.a = phi.data,
                     .a_row = 1,
                     .a_inner = phi.stride,
                     .b = v.data,
                     .b_stride = v.stride,
                     .c = sums.n + f * columns * padded_.values,
                     .c_stride = padded_.values,
                     .rows = kernel_.sizes.map.features,
                     .inner = end - begin,
                     .columns = padded_.values,
                     .accumulate = true});
  }
}

size_t FltTile::PartEnd(const FltSpan& span, const FltSide& side, const FltSums& sums, size_t begin,
                        size_t count) {
  if (!IsExponential(kernel_.sizes.map.shape)) return count;
  const size_t features = kernel_.sizes.map.features;
  size_t base_row = begin;
  if (sums.maxima[0] <= kFltNoKey / 2) {
    // Rows before the first key have nothing to lose.
    while (base_row < count && !Valid(span, base_row)) ++base_row;
    if (base_row == count) return count;
  }
  const float* const base = side.features.data + base_row * side.features.stride;
  const auto rises = [&](const float* logs) {
    bool too_far = false;
    for (size_t m = 0; m < features; ++m) {
      too_far |= logs[m] - std::max(sums.maxima[m], base[m]) > kFltRiseMax;
    }
    return too_far;
  };
  std::copy_n(sums.maxima, padded_.features, maxima_);
  loops_.column_maxima(count - base_row, padded_.features, From(side.features, base_row), maxima_);
  if (!rises(maxima_)) return count;
  for (size_t row = base_row + 1; row < count; ++row) {
    const float* const logs = side.features.data + row * side.features.stride;
    if (rises(logs)) return row;
  }
  return count;
}

void FltTile::Transpose(Matrix from, size_t rows, size_t columns, Matrix to) {
  constexpr size_t kBlock = 16;
  for (size_t r = 0; r < rows; r += kBlock) {
    const size_t last = std::min(r + kBlock, rows);
    for (size_t c = 0; c < columns; ++c) {
      for (size_t i = r; i < last; ++i) {
        to.data[c * to.stride + i] = from.data[i * from.stride + c];
      }
    }
  }
}

absl::Status FaultError(const FltFaults& faults, size_t batch, size_t head) {
  const auto not_finite = [&](const char* what, size_t count) {
    return InvalidArgument(
        "not finite: {} has {} numbers that are NaN or infinite, in batch entry {}, head {}; mask "
        "out padding, or mend what made them",
        what, count, batch, head);
  };
  if (faults.queries > 0) return not_finite("q", faults.queries);
  if (faults.keys > 0) return not_finite("k", faults.keys);
  if (faults.values > 0) return not_finite("v", faults.values);
  if (faults.gradients > 0) return not_finite("out_gradient", faults.gradients);
  if (faults.outputs > 0) {
    return InvalidArgument(
        "overflow: {} numbers of the result, in batch entry {}, head {}, are beyond float32; scale "
        "q, k and v down",
        faults.outputs, batch, head);
  }
  return absl::OkStatus();
}

absl::Status CheckPositions(const FltKernel& kernel, const FltRows& rows) {
  if (kernel.sizes.waves == 0) return absl::OkStatus();
  const size_t each = rows.length * kernel.sizes.positions;
  const size_t count = (rows.positions_per_batch ? rows.batch : 1) * each;
  for (size_t i = 0; i < count; ++i) {
    // Written so that NaN is refused, too.
    if (std::abs(rows.positions[i]) <= kFltPositionLimit) continue;
    return InvalidArgument(
        "wrong position: coordinate {} of row {} is {}, expected at most {} in "
        "magnitude; shift or scale the positions",
        i % kernel.sizes.positions, i % each / kernel.sizes.positions, rows.positions[i],
        kFltPositionLimit);
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne::kernels::cpu
