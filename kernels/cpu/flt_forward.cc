// The forward pass of FLT attention on the CPU.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/cpu/flt_attention.h"
#include "kernels/cpu/flt_units.h"

namespace mnemosyne::kernels::cpu {
namespace {

// Rows of a part of a long sequence, and the most parts of one.
constexpr size_t kPartRows = 8192, kPartsMax = 16;

// Causal sequences are cut into parts, which reads their keys twice, where there are few of them.
constexpr size_t kCausalUnitsMin = 8;

// Parts whose sums are held at once.
constexpr size_t kPartsAtOnce = 512;

// What a task found.
struct Outcome {
  FltFaults faults;
  size_t clamped_rows = 0;
};

// The attention of some rows of one head.
class Worker {
 public:
  Worker(const FltTable& loops, const FltAttentionArgs& args)
      : args_(args),
        sizes_(args.kernel->sizes),
        tile_rows_(FltTileRows(sizes_, args.rows.causal)),
        scratch_(Reset(sizes_, tile_rows_)),
        tile_(loops, *args.kernel, args.rows, args.type, tile_rows_, scratch_),
        loops_(loops),
        padded_(PaddedSizes(sizes_)) {
    values_ = scratch_.Take(tile_rows_, padded_.values);
    sums_above_ = scratch_.Take(tile_rows_, padded_.values);
    across_ = scratch_.Take(padded_.features, kFltTileMax);
    weights_ = scratch_.Take(tile_rows_, kFltTileMax);
    masks_ = scratch_.Take(tile_rows_, kFltTileMax);
    mask_columns_ = scratch_.Take(padded_.masks, kFltTileMax);
    scaled_ = scratch_.Take(tile_rows_, padded_.features);
    for (float** row : {&stabilizers_, &below_, &plain_below_, &dots_, &ones_}) {
      *row = scratch_.Take(kFltTileMax);
    }
    std::fill_n(ones_, kFltTileMax, 1.0F);
  }

  Outcome& outcome() { return outcome_; }

  // Adds the keys of `span` to `sums`.
  void AddKeys(const FltSpan& span, const FltSums& sums) {
    ForEachTile(span, tile_rows_, /*backwards=*/false, [&](const FltSpan& tile) {
      LoadKeys(tile);
      tile_.Raise(tile_.keys, 0, tile.count, sums);
      tile_.Exponentiate(tile, sums, 0, tile.count, tile_.keys);
      tile_.Add(tile_.keys, values_, 0, tile.count, sums);
    });
  }

  // Answers the queries of `span` from `sums`.
  void AnswerAll(const FltSpan& span, const FltSums& sums) {
    ForEachTile(span, tile_rows_, /*backwards=*/false, [&](const FltSpan& tile) {
      LoadQueries(tile);
      Read(0, tile.count, sums);
      Finish(tile);
    });
  }

  // Answers each query from `sums` and the keys up to it, and adds the keys to `sums`.
  void AnswerCausal(const FltSpan& span, const FltSums& sums) {
    ForEachTile(span, tile_rows_, /*backwards=*/false, [&](const FltSpan& tile) {
      LoadKeys(tile);
      LoadQueries(tile);
      for (size_t begin = 0; begin < tile.count;) {
        const size_t end = tile_.PartEnd(tile, tile_.keys, sums, begin, tile.count);
        tile_.Raise(tile_.keys, begin, end, sums);
        tile_.Exponentiate(tile, sums, begin, end, tile_.keys);
        Read(begin, end, sums);
        ReadWithin(begin, end);
        tile_.Add(tile_.keys, values_, begin, end, sums);
        begin = end;
      }
      Finish(tile);
    });
  }

 private:
  static FltScratch& Reset(const FltSizes& sizes, size_t tile_rows) {
    const FltPadded padded = PaddedSizes(sizes);
    FltScratch& scratch = ThreadScratch();
    scratch.Reset(FltTile::ScratchCount(sizes, tile_rows) +
                  tile_rows * (2 * padded.values + padded.features) +
                  kFltTileMax * (padded.features + padded.masks + 2 * tile_rows + 5) + 256);
    return scratch;
  }

  Matrix From(const Matrix& matrix, size_t row) const {
    return {matrix.data + row * matrix.stride, matrix.stride};
  }

  void LoadKeys(const FltSpan& tile) {
    outcome_.faults.keys += tile_.Load(tile, args_.k, /*of_keys=*/true, tile_.keys);
    outcome_.faults.values += tile_.LoadRows(tile, args_.v, sizes_.value_dim, 1, values_);
  }

  void LoadQueries(const FltSpan& tile) {
    head_ = tile.head;
    outcome_.faults.queries += tile_.Load(tile, args_.q, /*of_keys=*/false, tile_.queries);
  }

  // Numerators and denominators of rows [begin, end) from the sums.
  void Read(size_t begin, size_t end, const FltSums& sums) {
    const size_t count = end - begin, columns = padded_.features;
    const Matrix phi = From(tile_.queries.features, begin);
    if (IsExponential(sizes_.map.shape)) {
      loops_.row_exponentials(count, columns, phi, sums.maxima, stabilizers_ + begin);
    }
    const bool masked = padded_.masks > 1;
    for (size_t f = 0; f < padded_.masks; ++f) {
      const float* const factors = tile_.queries.columns + f * tile_rows_ + begin;
      if (masked) loops_.scale_rows(count, columns, phi, factors, scaled_);
      const Matrix read = masked ? scaled_ : phi;
      loops_.multiply({.a = read.data,
                       .a_row = read.stride,
                       .a_inner = 1,
                       .b = sums.n + f * columns * padded_.values,
                       .b_stride = padded_.values,
                       .c = sums_above_.data + begin * sums_above_.stride,
                       .c_stride = sums_above_.stride,
                       .rows = count,
                       .inner = sizes_.map.features,
                       .columns = padded_.values,
                       .accumulate = f > 0});
      loops_.row_dots(count, columns, read, sums.psi + f * columns, 0, dots_);
      for (size_t r = 0; r < count; ++r) {
        below_[begin + r] = f == 0 ? dots_[r] : below_[begin + r] + dots_[r];
      }
    }
    if (!Clamps()) return;
    loops_.row_dots(count, columns, phi, sums.psi, 0, plain_below_ + begin);
  }

  // Adds what rows [begin, end) read of the keys among them, up to their own.
  void ReadWithin(size_t begin, size_t end) {
    const size_t count = end - begin, columns = (count + 15) / 16 * 16;
    const Matrix phi = From(tile_.queries.features, begin);
    FltTile::Transpose(From(tile_.keys.features, begin), count, sizes_.map.features, across_);
    loops_.multiply({.a = phi.data,
                     .a_row = phi.stride,
                     .a_inner = 1,
                     .b = across_.data,
                     .b_stride = across_.stride,
                     .c = weights_.data,
                     .c_stride = weights_.stride,
                     .rows = count,
                     .inner = sizes_.map.features,
                     .columns = columns,
                     .accumulate = false});
    for (size_t r = 0; r < count; ++r) {
      std::fill(weights_.data + r * weights_.stride + r + 1,
                weights_.data + r * weights_.stride + columns, 0.0F);
    }
    if (Clamps()) {
      loops_.row_dots(count, columns, weights_, ones_, 0, dots_);
      for (size_t r = 0; r < count; ++r) plain_below_[begin + r] += dots_[r];
    }
    if (padded_.masks > 1) MaskWithin(begin, count, columns);
    loops_.row_dots(count, columns, weights_, ones_, 0, dots_);
    for (size_t r = 0; r < count; ++r) below_[begin + r] += dots_[r];
    loops_.multiply({.a = weights_.data,
                     .a_row = weights_.stride,
                     .a_inner = 1,
                     .b = values_.data + begin * values_.stride,
                     .b_stride = values_.stride,
                     .c = sums_above_.data + begin * sums_above_.stride,
                     .c_stride = sums_above_.stride,
                     .rows = count,
                     .inner = count,
                     .columns = padded_.values,
                     .accumulate = true});
  }

  // Multiplies the weights among rows from `begin` on with the mask.
  void MaskWithin(size_t begin, size_t count, size_t columns) {
    for (size_t f = 0; f < padded_.masks; ++f) {
      std::copy_n(tile_.keys.columns + f * tile_rows_ + begin, count,
                  mask_columns_.data + f * mask_columns_.stride);
    }
    loops_.multiply({.a = tile_.queries.masks.data + begin * tile_.queries.masks.stride,
                     .a_row = tile_.queries.masks.stride,
                     .a_inner = 1,
                     .b = mask_columns_.data,
                     .b_stride = mask_columns_.stride,
                     .c = masks_.data,
                     .c_stride = masks_.stride,
                     .rows = count,
                     .inner = padded_.masks,
                     .columns = columns,
                     .accumulate = false});
    loops_.multiply_elements(count, columns, weights_, masks_);
  }

  bool Clamps() const { return args_.kernel->floors[head_] > 0; }

  // Divides, and writes the rows of a tile.
  void Finish(const FltSpan& tile) {
    const float floor = args_.kernel->floors[tile.head];
    const float least = IsExponential(sizes_.map.shape) ? 0 : kDenominatorMin;
    for (size_t r = 0; r < tile.count; ++r) {
      clamped_[r] = false;
      if (floor > 0 && below_[r] < floor * plain_below_[r]) {
        below_[r] = floor * plain_below_[r];
        clamped_[r] = below_[r] > 0;
        if (clamped_[r]) ++outcome_.clamped_rows;
      }
      const bool counts = tile_.Valid(tile, r) && below_[r] > least;
      if (std::isnan(below_[r])) ++outcome_.faults.outputs;
      if (!counts) below_[r] = 0;
      dots_[r] = counts ? 1 / below_[r] : 0;
    }
    loops_.scale_rows(tile.count, padded_.values, sums_above_, dots_, sums_above_);
    outcome_.faults.outputs += loops_.scale_and_count(tile.count, padded_.values, 1, sums_above_);
    tile_.StoreRows(tile, sums_above_, sizes_.value_dim, args_.out);
    if (args_.normalizers == nullptr) return;
    float* const to =
        args_.normalizers +
        2 * ((tile.batch * sizes_.heads + tile.head) * args_.rows.length + tile.first);
    for (size_t r = 0; r < tile.count; ++r) {
      to[2 * r] = stabilizers_[r];
      to[2 * r + 1] = clamped_[r] ? -below_[r] : below_[r];
    }
  }

  const FltAttentionArgs& args_;
  const FltSizes& sizes_;
  const size_t tile_rows_;
  FltScratch& scratch_;
  FltTile tile_;
  const FltTable& loops_;
  const FltPadded padded_;
  size_t head_ = 0;
  bool clamped_[kFltTileMax] = {};
  Outcome outcome_;
  Matrix values_;        // [T, Dv]
  Matrix sums_above_;    // [T, Dv]: numerators, then outputs.
  Matrix across_;        // [M, T]: key features, transposed.
  Matrix weights_;       // [T, T]: A within the tile.
  Matrix masks_;         // [T, T]
  Matrix mask_columns_;  // [F, T]
  Matrix scaled_;        // [T, M]
  float* stabilizers_;   // [T]
  float* below_;         // [T]: denominators.
  float* plain_below_;   // [T]: those without a mask.
  float* dots_;          // [T]
  float* ones_;          // [T]
};

// A part of a unit.
struct Part {
  size_t unit;
  size_t index;
  FltSpan span;
};

class Forward {
 public:
  Forward(const FltTable& loops, BlockRunner& runner, const FltAttentionArgs& args)
      : loops_(loops),
        runner_(runner),
        args_(args),
        sizes_(args.kernel->sizes),
        units_(FltUnits(sizes_, args.rows)),
        sums_count_(FltSums::Count(sizes_)) {
    if (args.state == nullptr || sizes_.positions == 0) return;
    for (FltSpan& unit : units_) {
      const float* const origin = StateOf(unit) + FltStateCount(sizes_) - sizes_.positions;
      if (*origin > kFltNoKey) unit.origin = origin;
    }
  }

  absl::Status Run() {
    MNEMO_RETURN_IF_ERROR(CheckPositions(*args_.kernel, args_.rows));
    for (size_t first = 0; first < units_.size();) {
      const size_t last = CutIntoParts(first);
      MNEMO_RETURN_IF_ERROR(args_.rows.causal ? RunCausal() : RunBothWays());
      first = last;
    }
    if (args_.report != nullptr) *args_.report = report_;
    return absl::OkStatus();
  }

 private:
  // Cuts units from `first` on into parts, as many as are held at once; returns the unit after.
  size_t CutIntoParts(size_t first) {
    parts_.clear();
    size_t unit = first;
    for (; unit < units_.size() && (parts_.empty() || parts_.size() < kPartsAtOnce); ++unit) {
      const FltSpan& span = units_[unit];
      const bool whole = args_.rows.causal && units_.size() >= kCausalUnitsMin;
      const size_t wanted = whole ? 1 : std::clamp<size_t>(span.count / kPartRows, 1, kPartsMax);
      const size_t rows = (span.count / wanted + kFltTileMax) / kFltTileMax * kFltTileMax;
      for (size_t at = 0, index = 0; at < span.count; at += wanted == 1 ? span.count : rows) {
        const size_t count = wanted == 1 ? span.count : std::min(rows, span.count - at);
        parts_.push_back(
            {unit, index++, {span.batch, span.head, span.first + at, count, span.origin}});
      }
    }
    const size_t padded = (sums_count_ + 15) / 16;
    sums_.Reset(parts_.size() * padded * 16 + 16);
    part_sums_.clear();
    for (size_t i = 0; i < parts_.size(); ++i) {
      part_sums_.push_back(FltSums::At(sizes_, sums_.Take(padded * 16)));
      ClearSums(sizes_, part_sums_.back());
    }
    return unit;
  }

  // Calls work(part, worker) for all parts, and collects what they found.
  template <typename Work>
  absl::Status ForEachPart(const Work& work) {
    std::vector<Block> blocks;
    for (size_t i = 0; i < parts_.size(); ++i) blocks.push_back({i, i, 1});
    std::vector<Outcome> outcomes(parts_.size());
    runner_.Run(
        blocks,
        [&](size_t i) {
          Worker worker(loops_, args_);
          work(i, worker);
          outcomes[i] = worker.outcome();
        },
        1);
    for (size_t i = 0; i < parts_.size(); ++i) {
      const FltSpan& span = parts_[i].span;
      MNEMO_RETURN_IF_ERROR(FaultError(outcomes[i].faults, span.batch, span.head));
      report_.clamped_rows += outcomes[i].clamped_rows;
    }
    return absl::OkStatus();
  }

  bool IsLast(size_t part) const {
    return part + 1 == parts_.size() || parts_[part + 1].unit != parts_[part].unit;
  }

  void CountRows() {
    for (const Part& part : parts_) report_.rows += part.span.count;
  }

  absl::Status RunBothWays() {
    CountRows();
    MNEMO_RETURN_IF_ERROR(ForEachPart(
        [&](size_t i, Worker& worker) { worker.AddKeys(parts_[i].span, part_sums_[i]); }));
    std::vector<FltSums> of_unit(parts_.size());
    for (size_t i = 0, first = 0; i < parts_.size(); ++i) {
      if (parts_[i].index == 0) first = i;
      if (i > first) MergeSums(loops_, sizes_, part_sums_[i], part_sums_[first]);
      of_unit[i] = part_sums_[first];
    }
    return ForEachPart(
        [&](size_t i, Worker& worker) { worker.AnswerAll(parts_[i].span, of_unit[i]); });
  }

  absl::Status RunCausal() {
    CountRows();
    const bool cut = std::ranges::any_of(parts_, [](const Part& part) { return part.index > 0; });
    if (cut) {
      MNEMO_RETURN_IF_ERROR(ForEachPart([&](size_t i, Worker& worker) {
        if (!IsLast(i)) worker.AddKeys(parts_[i].span, part_sums_[i]);
      }));
    }
    // What each part starts from: the sums of those before it.
    std::vector<float> memory(2 * sums_count_);
    const FltSums before = FltSums::At(sizes_, memory.data());
    for (size_t i = 0; i < parts_.size(); ++i) {
      if (parts_[i].index == 0) {
        ClearSums(sizes_, before);
        MNEMO_RETURN_IF_ERROR(Restore(parts_[i].span, before));
      }
      float* const own = part_sums_[i].maxima;
      std::copy_n(own, sums_count_, memory.data() + sums_count_);
      std::copy_n(before.maxima, sums_count_, own);
      if (!IsLast(i)) {
        MergeSums(loops_, sizes_, FltSums::At(sizes_, memory.data() + sums_count_), before);
      }
    }
    MNEMO_RETURN_IF_ERROR(ForEachPart(
        [&](size_t i, Worker& worker) { worker.AnswerCausal(parts_[i].span, part_sums_[i]); }));
    if (args_.state == nullptr) return absl::OkStatus();
    for (size_t i = 0; i < parts_.size(); ++i) {
      if (!IsLast(i)) continue;
      const FltSpan& span = parts_[i].span;
      WriteState(sizes_, part_sums_[i], StateOf(span));
      std::copy_n(span.origin, sizes_.positions,
                  StateOf(span) + FltStateCount(sizes_) - sizes_.positions);
    }
    return absl::OkStatus();
  }

  float* StateOf(const FltSpan& span) const {
    return args_.state + (span.batch * sizes_.heads + span.head) * FltStateCount(sizes_);
  }

  // Sets `sums` to where the stream stands.
  absl::Status Restore(const FltSpan& span, const FltSums& sums) const {
    if (args_.state == nullptr || ReadState(sizes_, StateOf(span), sums)) return absl::OkStatus();
    return InvalidArgument(
        "not finite: the running state of batch entry {}, head {} has numbers that are NaN or "
        "infinite; start from an empty one",
        span.batch, span.head);
  }

  const FltTable& loops_;
  BlockRunner& runner_;
  const FltAttentionArgs& args_;
  const FltSizes& sizes_;
  std::vector<FltSpan> units_;
  const size_t sums_count_;
  std::vector<Part> parts_;
  FltScratch sums_;
  std::vector<FltSums> part_sums_;
  FltReport report_;
};

}  // namespace

absl::Status FltForward(const FltTable& loops, BlockRunner& runner, const FltAttentionArgs& args) {
  return Forward(loops, runner, args).Run();
}

}  // namespace mnemosyne::kernels::cpu
