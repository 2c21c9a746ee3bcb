// The backward pass of FLT attention on the CPU.
//
// With g^_i = g_i / den_i and e_i = -(g_i . out_i) / den_i the gradient of A_ij is g^_i . v_j +
// e_i. Gradients of a query need sums over the keys that it saw, those of a key sums over the
// queries that saw it: one pass in the order of the keys, and one against it. Nothing is kept for
// each row but what the forward pass left, and no state is undone; docs/flt.md has the equations.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/cpu/flt_attention.h"
#include "kernels/cpu/flt_input_gradients.h"
#include "kernels/cpu/flt_units.h"
#include "kernels/flt/flt_gradients.h"

namespace mnemosyne::kernels::cpu {
namespace {

// Units whose gradients are held at once.
constexpr size_t kUnitsAtOnce = 128;

Matrix From(const Matrix& matrix, size_t row) {
  return {matrix.data + row * matrix.stride, matrix.stride};
}

// Sums over keys, or over queries: weights of a row are 1 or e, values are v or g^.
struct BackSums {
  float* maxima;      // [M]
  float* weights;     // [F, M]: sums of features times the weight of a row.
  float* transposed;  // [F, Dv, M]: sums of values times features.
  float* straight;    // [F, M, Dv], or null.
  float* clamped;     // [M]: sums of features times e of clamped rows, or null.
};

// The gradients of one unit.
class Worker {
 public:
  Worker(const FltTable& loops, const FltBackwardArgs& args, FltUnitGradients& gradients)
      : args_(args),
        kernel_(*args.kernel),
        sizes_(args.kernel->sizes),
        padded_(PaddedSizes(sizes_)),
        tile_rows_(FltTileRows(sizes_, args.rows.causal)),
        scratch_(Reset(sizes_, padded_, tile_rows_)),
        tile_(loops, *args.kernel, args.rows, args.type, tile_rows_, scratch_),
        loops_(loops),
        faults_(gradients.faults),
        inputs_(args, tile_, scratch_, gradients),
        feature_gradient_(inputs_.features()),
        mask_gradient_(inputs_.masks()) {
    for (Matrix* matrix : {&values_, &outputs_, &upstream_, &value_gradient_}) {
      *matrix = scratch_.Take(tile_rows_, padded_.values);
    }
    for (Matrix* matrix : {&scaled_, &part_, &copy_}) {
      *matrix = scratch_.Take(tile_rows_, padded_.features);
    }
    for (Matrix* matrix : {&pairs_, &pair_gradient_, &pair_masks_, &kernel_gradient_}) {
      *matrix = scratch_.Take(tile_rows_, kFltTileMax);
    }
    across_ = scratch_.Take(std::max(padded_.features, padded_.values), kFltTileMax);
    mask_columns_ = scratch_.Take(padded_.masks, kFltTileMax);
    for (float** row : {&weights_, &clamp_weights_, &factors_, &stabilizers_, &ones_, &dots_}) {
      *row = scratch_.Take(kFltTileMax);
    }
    std::fill_n(ones_, kFltTileMax, 1.0F);
    shifts_ = scratch_.Take(padded_.features);
    maxima_ = scratch_.Take(padded_.features);
    for (BackSums* sums : {&of_keys_, &of_queries_}) {
      sums->maxima = scratch_.Take(padded_.features);
      sums->weights = scratch_.Take(padded_.masks * padded_.features);
      sums->transposed = scratch_.Take(padded_.masks * padded_.values * padded_.features);
      if (IsExponential(sizes_.map.shape)) {
        std::fill_n(sums->maxima, sizes_.map.features, kFltNoKey);
      }
    }
    of_keys_.straight = of_keys_.clamped = nullptr;
    of_queries_.straight = scratch_.Take(padded_.masks * padded_.features * padded_.values);
    of_queries_.clamped = scratch_.Take(padded_.features);
  }

  void Run(const FltSpan& unit) {
    if (args_.rows.causal) {
      ForEachTile(unit, tile_rows_, false, [&](const FltSpan& tile) { CausalQueries(tile); });
      ForEachTile(unit, tile_rows_, true, [&](const FltSpan& tile) { CausalKeys(tile); });
      return;
    }
    ForEachTile(unit, tile_rows_, false, [&](const FltSpan& tile) {
      LoadKeys(tile, /*count=*/true);
      TakeInKeys(tile, 0, tile.count);
    });
    ForEachTile(unit, tile_rows_, false, [&](const FltSpan& tile) {
      LoadQueries(tile, /*count=*/true);
      ShiftQueries(tile);
      // Relative to the keys' maxima for what queries get, to their own for what keys get.
      CopyFeatures(tile_.queries.features, tile.count, copy_);
      ExponentiateQueries(0, tile.count, of_keys_.maxima);
      ReadForQueries(0, tile.count);
      FinishQueries(tile);
      CopyFeatures(copy_, tile.count, tile_.queries.features);
      TakeInQueries(0, tile.count);
    });
    ForEachTile(unit, tile_rows_, false, [&](const FltSpan& tile) {
      LoadKeys(tile, /*count=*/false);
      ExponentiateKeysBelow(tile, 0, tile.count);
      ReadForKeys(0, tile.count);
      FinishKeys(tile);
    });
  }

 private:
  static FltScratch& Reset(const FltSizes& sizes, const FltPadded& padded, size_t tile_rows) {
    FltScratch& scratch = ThreadScratch();
    const size_t tile = 4 * padded.values + 4 * padded.features + 4 * kFltTileMax;
    const size_t sums = padded.features * (5 + padded.masks * (2 + 3 * padded.values));
    scratch.Reset(FltTile::ScratchCount(sizes, tile_rows) +
                  FltInputGradients::ScratchCount(sizes, tile_rows) + tile_rows * tile + sums +
                  kFltTileMax * (padded.features + padded.values + padded.masks + 7) + 1024);
    return scratch;
  }

  void CopyFeatures(Matrix from, size_t rows, Matrix to) const {
    for (size_t r = 0; r < rows; ++r) {
      std::copy_n(from.data + r * from.stride, padded_.features, to.data + r * to.stride);
    }
  }

  bool Exponential() const { return IsExponential(sizes_.map.shape); }
  bool Masked() const { return padded_.masks > 1; }

  // Each pass loads tiles anew; faults are counted once.
  void LoadKeys(const FltSpan& tile, bool count) {
    head_ = tile.head;
    const size_t keys = tile_.Load(tile, args_.k, /*of_keys=*/true, tile_.keys);
    const size_t values = tile_.LoadRows(tile, args_.v, sizes_.value_dim, 1, values_);
    if (!count) return;
    faults_.keys += keys;
    faults_.values += values;
  }

  // Queries with g^ in `upstream_`, e in `weights_`, and e of clamped rows apart.
  void LoadQueries(const FltSpan& tile, bool count) {
    FltFaults uncounted;
    FltFaults& faults = count ? faults_ : uncounted;
    head_ = tile.head;
    faults.queries += tile_.Load(tile, args_.q, /*of_keys=*/false, tile_.queries);
    faults.outputs += tile_.LoadRows(tile, args_.out, sizes_.value_dim, 1, outputs_);
    faults.gradients += tile_.LoadRows(tile, args_.out_gradient, sizes_.value_dim, 1, upstream_);
    loops_.row_dots(tile.count, padded_.values, upstream_, outputs_.data, outputs_.stride, dots_);
    const float* const normalizers =
        args_.normalizers +
        2 * ((tile.batch * sizes_.heads + tile.head) * args_.rows.length + tile.first);
    const float floor = kernel_.floors[tile.head];
    for (size_t r = 0; r < tile.count; ++r) {
      const float below = std::abs(normalizers[2 * r + 1]);
      const bool counts = tile_.Valid(tile, r) && below > 0;
      const bool clamped = normalizers[2 * r + 1] < 0;
      factors_[r] = counts ? 1 / below : 0;
      const float weight = -dots_[r] * factors_[r];
      weights_[r] = clamped ? 0 : weight;
      clamp_weights_[r] = clamped ? weight * floor : 0;
      stabilizers_[r] = normalizers[2 * r];
      if (!counts && Exponential()) {
        // Such a row has no part in any maximum.
        std::fill_n(tile_.queries.features.data + r * tile_.queries.features.stride,
                    padded_.features, kFltNoKey);
        stabilizers_[r] = 0;
      }
    }
    loops_.scale_rows(tile.count, padded_.values, upstream_, factors_, upstream_);
  }

  // Logarithms of query features relative to what the forward pass took off.
  void ShiftQueries(const FltSpan& tile) {
    if (!Exponential()) return;
    loops_.shift_rows(tile.count, padded_.features, tile_.queries.features, stabilizers_);
  }

  // Query features beside key features that are relative to `maxima`.
  void ExponentiateQueries(size_t begin, size_t end, const float* maxima) {
    if (!Exponential()) return;
    for (size_t m = 0; m < padded_.features; ++m) shifts_[m] = -maxima[m];
    loops_.exponentials(end - begin, padded_.features, From(tile_.queries.features, begin),
                        shifts_);
  }

  // Raises maxima to those of rows and scales the sums with them.
  void Raise(Matrix features, size_t count, const BackSums& sums) {
    if (!Exponential()) return;
    const size_t columns = padded_.features;
    std::copy_n(sums.maxima, columns, maxima_);
    loops_.column_maxima(count, columns, features, maxima_);
    if (std::equal(maxima_, maxima_ + columns, sums.maxima)) return;
    std::copy_n(sums.maxima, columns, shifts_);
    loops_.exponentials(1, columns, {shifts_, columns}, maxima_);
    std::copy_n(maxima_, columns, sums.maxima);
    const Matrix factors = {shifts_, 0};
    loops_.multiply_elements(padded_.masks, columns, {sums.weights, columns}, factors);
    loops_.multiply_elements(padded_.masks * padded_.values, columns, {sums.transposed, columns},
                             factors);
    if (sums.clamped != nullptr) {
      loops_.multiply_elements(1, columns, {sums.clamped, columns}, factors);
    }
    for (size_t f = 0; f < padded_.masks && sums.straight != nullptr; ++f) {
      const Matrix part = {sums.straight + f * columns * padded_.values, padded_.values};
      loops_.scale_rows(columns, padded_.values, part, shifts_, part);
    }
  }

  // Adds rows [begin, end) of one side: features, with the masks of the side, values, and weights.
  void Add(const FltSide& side, Matrix values, const float* row_weights, size_t begin, size_t end,
           const BackSums& sums) {
    const size_t count = end - begin, columns = padded_.features;
    const Matrix phi = From(side.features, begin), v = From(values, begin);
    for (size_t f = 0; f < padded_.masks; ++f) {
      Matrix masked = phi;
      if (Masked()) {
        loops_.scale_rows(count, columns, phi, side.columns + f * tile_rows_ + begin, scaled_);
        masked = scaled_;
      }
      Multiply(row_weights + begin, 0, 1, masked, {sums.weights + f * columns, columns}, 1, count,
               columns, true);
      Multiply(v.data, 1, v.stride, masked,
               {sums.transposed + f * padded_.values * columns, columns}, sizes_.value_dim, count,
               columns, true);
      if (sums.straight == nullptr) continue;
      Multiply(masked.data, 1, masked.stride, v,
               {sums.straight + f * columns * padded_.values, padded_.values}, sizes_.map.features,
               count, padded_.values, true);
    }
    if (sums.clamped == nullptr || kernel_.floors[head_] == 0) return;
    Multiply(clamp_weights_ + begin, 0, 1, phi, {sums.clamped, columns}, 1, count, columns, true);
  }

  void Multiply(const float* a, size_t a_row, size_t a_inner, Matrix b, Matrix c, size_t rows,
                size_t inner, size_t columns, bool accumulate) const {
    loops_.multiply(
        {a, a_row, a_inner, b.data, b.stride, c.data, c.stride, rows, inner, columns, accumulate});
  }

  void TakeInKeys(const FltSpan& tile, size_t begin, size_t end) {
    RaiseAndExponentiateKeys(tile, begin, end);
    Add(tile_.keys, values_, ones_, begin, end, of_keys_);
  }

  void RaiseAndExponentiateKeys(const FltSpan& tile, size_t begin, size_t end) {
    Raise(From(tile_.keys.features, begin), end - begin, of_keys_);
    const FltSums sums = {of_keys_.maxima, nullptr, nullptr};
    tile_.Exponentiate(tile, sums, begin, end, tile_.keys);
  }

  // Queries as shifted logarithms; they become relative to their own maxima.
  void TakeInQueries(size_t begin, size_t end) {
    Raise(From(tile_.queries.features, begin), end - begin, of_queries_);
    if (Exponential()) {
      loops_.exponentials(end - begin, padded_.features, From(tile_.queries.features, begin),
                          of_queries_.maxima);
    }
    Add(tile_.queries, upstream_, weights_, begin, end, of_queries_);
  }

  // Key features beside query features that are relative to the queries' maxima.
  void ExponentiateKeysBelow(const FltSpan& tile, size_t begin, size_t end) {
    if (!Exponential()) return;
    for (size_t m = 0; m < padded_.features; ++m) shifts_[m] = -of_queries_.maxima[m];
    const FltSums sums = {shifts_, nullptr, nullptr};
    tile_.Exponentiate(tile, sums, begin, end, tile_.keys);
  }

  // Sets gradients of features and masks of rows [begin, end) of `side` from sums over the others.
  void ReadFor(const FltSide& side, Matrix values, const float* row_weights, size_t begin,
               size_t end, const BackSums& sums) {
    const size_t count = end - begin, columns = padded_.features;
    const Matrix phi = From(side.features, begin), v = From(values, begin);
    const Matrix target = From(feature_gradient_, begin);
    for (size_t f = 0; f < padded_.masks; ++f) {
      const Matrix to = Masked() ? part_ : target;
      Multiply(v.data, v.stride, 1, {sums.transposed + f * padded_.values * columns, columns}, to,
               count, sizes_.value_dim, columns, false);
      loops_.add_scaled_rows(count, columns, row_weights + begin, {sums.weights + f * columns, 0},
                             to);
      if (!Masked()) continue;
      loops_.row_dots(count, columns, phi, part_.data, part_.stride, dots_);
      for (size_t r = 0; r < count; ++r) {
        mask_gradient_.data[(begin + r) * mask_gradient_.stride + f] = dots_[r];
      }
      const float* const factors = side.columns + f * tile_rows_ + begin;
      if (f == 0) {
        loops_.scale_rows(count, columns, part_, factors, target);
      } else {
        loops_.add_scaled_rows(count, columns, factors, part_, target);
      }
    }
  }

  void ReadForQueries(size_t begin, size_t end) {
    ReadFor(tile_.queries, upstream_, weights_, begin, end, of_keys_);
    if (kernel_.floors[head_] == 0) return;
    // A clamped denominator is the plain one times the floor, without a mask.
    loops_.add_scaled_rows(end - begin, padded_.features, clamp_weights_ + begin,
                           {of_keys_.weights, 0}, From(feature_gradient_, begin));
  }

  void ReadForKeys(size_t begin, size_t end) {
    ReadFor(tile_.keys, values_, ones_, begin, end, of_queries_);
    const size_t count = end - begin, columns = padded_.features;
    if (kernel_.floors[head_] != 0) {
      loops_.add_scaled_rows(count, columns, ones_, {of_queries_.clamped, 0},
                             From(feature_gradient_, begin));
    }
    for (size_t f = 0; f < padded_.masks; ++f) {
      const Matrix phi = From(tile_.keys.features, begin);
      Matrix masked = phi;
      if (Masked()) {
        loops_.scale_rows(count, columns, phi, tile_.keys.columns + f * tile_rows_ + begin,
                          scaled_);
        masked = scaled_;
      }
      Multiply(masked.data, masked.stride, 1,
               {of_queries_.straight + f * columns * padded_.values, padded_.values},
               From(value_gradient_, begin), count, sizes_.map.features, padded_.values, f > 0);
    }
  }

  // Weights among rows [begin, end) and their gradients, for pairs of a query and a key not after
  // it: `pairs_` = K T, `kernel_gradient_` that of K, `pair_gradient_` that of T.
  void Pair(size_t begin, size_t end) {
    const size_t count = end - begin, columns = Padded(count);
    const Matrix phi = From(tile_.queries.features, begin);
    FltTile::Transpose(From(tile_.keys.features, begin), count, sizes_.map.features, across_);
    Multiply(phi.data, phi.stride, 1, across_, pairs_, count, sizes_.map.features, columns, false);
    FltTile::Transpose(From(values_, begin), count, sizes_.value_dim, across_);
    const Matrix g = From(upstream_, begin);
    Multiply(g.data, g.stride, 1, across_, kernel_gradient_, count, sizes_.value_dim, columns,
             false);
    for (size_t r = 0; r < count; ++r) {
      float* const row = kernel_gradient_.data + r * kernel_gradient_.stride;
      for (size_t c = 0; c <= r; ++c) row[c] += weights_[begin + r];
      std::fill(row + r + 1, row + columns, 0.0F);
      float* const pairs = pairs_.data + r * pairs_.stride;
      std::fill(pairs + r + 1, pairs + columns, 0.0F);
    }
    if (!Masked()) return;
    for (size_t f = 0; f < padded_.masks; ++f) {
      std::copy_n(tile_.keys.columns + f * tile_rows_ + begin, count,
                  mask_columns_.data + f * mask_columns_.stride);
    }
    const Matrix masks = From(tile_.queries.masks, begin);
    Multiply(masks.data, masks.stride, 1, mask_columns_, pair_masks_, count, padded_.masks, columns,
             false);
    for (size_t r = 0; r < count; ++r) {
      std::copy_n(kernel_gradient_.data + r * kernel_gradient_.stride, columns,
                  pair_gradient_.data + r * pair_gradient_.stride);
    }
    loops_.multiply_elements(count, columns, pair_gradient_, pairs_);
    loops_.multiply_elements(count, columns, kernel_gradient_, pair_masks_);
    loops_.multiply_elements(count, columns, pairs_, pair_masks_);
    for (size_t r = 0; r < count; ++r) {
      for (size_t c = 0; c <= r; ++c) {
        kernel_gradient_.data[r * kernel_gradient_.stride + c] += clamp_weights_[begin + r];
      }
    }
  }

  void CausalQueries(const FltSpan& tile) {
    LoadKeys(tile, /*count=*/true);
    LoadQueries(tile, /*count=*/true);
    ShiftQueries(tile);
    const FltSums running = {of_keys_.maxima, nullptr, nullptr};
    for (size_t begin = 0; begin < tile.count;) {
      const size_t end = tile_.PartEnd(tile, tile_.keys, running, begin, tile.count);
      const size_t count = end - begin;
      RaiseAndExponentiateKeys(tile, begin, end);
      ExponentiateQueries(begin, end, of_keys_.maxima);
      ReadForQueries(begin, end);
      Pair(begin, end);
      Multiply(kernel_gradient_.data, kernel_gradient_.stride, 1, From(tile_.keys.features, begin),
               From(feature_gradient_, begin), count, count, padded_.features, true);
      if (Masked()) {
        Multiply(pair_gradient_.data, pair_gradient_.stride, 1, From(tile_.keys.masks, begin),
                 From(mask_gradient_, begin), count, count, mask_gradient_.stride, true);
      }
      Add(tile_.keys, values_, ones_, begin, end, of_keys_);
      begin = end;
    }
    FinishQueries(tile);
  }

  void CausalKeys(const FltSpan& tile) {
    LoadKeys(tile, /*count=*/false);
    LoadQueries(tile, /*count=*/false);
    ShiftQueries(tile);
    for (size_t end = tile.count; end > 0;) {
      const size_t begin = PartBegin(end);
      const size_t count = end - begin;
      Raise(From(tile_.queries.features, begin), count, of_queries_);
      if (Exponential()) {
        loops_.exponentials(count, padded_.features, From(tile_.queries.features, begin),
                            of_queries_.maxima);
      }
      ExponentiateKeysBelow(tile, begin, end);
      ReadForKeys(begin, end);
      Pair(begin, end);
      Multiply(kernel_gradient_.data, 1, kernel_gradient_.stride,
               From(tile_.queries.features, begin), From(feature_gradient_, begin), count, count,
               padded_.features, true);
      Multiply(pairs_.data, 1, pairs_.stride, From(upstream_, begin), From(value_gradient_, begin),
               count, count, padded_.values, true);
      if (Masked()) {
        Multiply(pair_gradient_.data, 1, pair_gradient_.stride, From(tile_.queries.masks, begin),
                 From(mask_gradient_, begin), count, count, mask_gradient_.stride, true);
      }
      Add(tile_.queries, upstream_, weights_, begin, end, of_queries_);
      end = begin;
    }
    FinishKeys(tile);
  }

  // The start of the rows up to `end` that can be one part: as PartEnd, against the order.
  size_t PartBegin(size_t end) const {
    if (!Exponential()) return 0;
    const Matrix& features = tile_.queries.features;
    const float* const base = features.data + (end - 1) * features.stride;
    for (size_t row = end - 1; row-- > 0;) {
      const float* const logs = features.data + row * features.stride;
      bool too_far = false;
      for (size_t m = 0; m < sizes_.map.features; ++m) {
        too_far |= logs[m] - std::max(of_queries_.maxima[m], base[m]) > kFltRiseMax;
      }
      if (too_far) return row + 1;
    }
    return 0;
  }

  void FinishQueries(const FltSpan& tile) {
    inputs_.Finish(tile, /*of_keys=*/false, tile_.queries, args_.q_gradient);
  }

  void FinishKeys(const FltSpan& tile) {
    if (args_.v_gradient.data != nullptr) {
      faults_.outputs += loops_.scale_and_count(tile.count, padded_.values, 1, value_gradient_);
      tile_.StoreRows(tile, value_gradient_, sizes_.value_dim, args_.v_gradient);
    }
    inputs_.Finish(tile, /*of_keys=*/true, tile_.keys, args_.k_gradient);
  }

  const FltBackwardArgs& args_;
  const FltKernel& kernel_;
  const FltSizes& sizes_;
  const FltPadded padded_;
  const size_t tile_rows_;
  FltScratch& scratch_;
  FltTile tile_;
  const FltTable& loops_;
  FltFaults& faults_;
  FltInputGradients inputs_;
  const Matrix feature_gradient_;  // [T, M]: those of `inputs_`.
  const Matrix mask_gradient_;     // [T, F]
  size_t head_ = 0;
  Matrix values_, outputs_, upstream_, value_gradient_;                        // [T, Dv]
  Matrix scaled_, part_, copy_;                                                // [T, M]
  Matrix pairs_, pair_gradient_, pair_masks_, kernel_gradient_;                // [T, T]
  Matrix across_;                                                              // [max(M, Dv), T]
  Matrix mask_columns_;                                                        // [F, T]
  float *weights_, *clamp_weights_, *factors_, *stabilizers_, *ones_, *dots_;  // [T]
  float *shifts_, *maxima_;                                                    // [M]
  BackSums of_keys_, of_queries_;
};

// Adds what a unit found.
void AddUnit(const FltKernel& kernel, const FltSpan& span, const FltUnitGradients& unit,
             FltGradientSums& sums) {
  const size_t set = kernel.projection_sets > 1 ? span.head : 0;
  const size_t projections = kernel.projection_sets == 0 ? 0 : ProjectionCount(kernel.sizes.map);
  const size_t each = projections * sums.width;
  for (size_t i = 0; i < each; ++i) {
    sums.weights[set * each + i] += static_cast<double>(unit.weights[i]);
  }
  for (size_t i = 0; i < projections; ++i) {
    sums.bias[set * projections + i] += static_cast<double>(unit.bias[i]);
  }
  FltGradientSums::OfHead& head = sums.heads[span.head];
  const auto add = [](const std::vector<double>& from, std::vector<double>& to) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  };
  add(unit.query_a, head.query_a);
  add(unit.query_b, head.query_b);
  add(unit.key_a, head.key_a);
  add(unit.key_b, head.key_b);
  add(unit.frequencies, head.frequencies);
  head.constant += unit.constant;
}

}  // namespace

absl::Status FltBackward(const FltTable& loops, BlockRunner& runner, const FltBackwardArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckPositions(*args.kernel, args.rows));
  const std::vector<FltSpan> units = FltUnits(args.kernel->sizes, args.rows);
  FltGradientSums sums(*args.kernel);
  for (size_t first = 0; first < units.size(); first += kUnitsAtOnce) {
    const size_t count = std::min(kUnitsAtOnce, units.size() - first);
    std::vector<FltUnitGradients> gradients(count);
    std::vector<Block> blocks;
    for (size_t i = 0; i < count; ++i) blocks.push_back({i, i, 1});
    runner.Run(
        blocks, [&](size_t i) { Worker(loops, args, gradients[i]).Run(units[first + i]); }, 1);
    for (size_t i = 0; i < count; ++i) {
      const FltSpan& unit = units[first + i];
      MNEMO_RETURN_IF_ERROR(FaultError(gradients[i].faults, unit.batch, unit.head));
      AddUnit(*args.kernel, unit, gradients[i], sums);
    }
  }
  WriteGradients(args, sums);
  return absl::OkStatus();
}

}  // namespace mnemosyne::kernels::cpu
