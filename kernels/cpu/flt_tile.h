// A tile of rows of one head of FLT attention: what the forward and the backward pass share. A tile
// is loaded from tensors, turned into features, and its sums over keys are added to running ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/flt_table.h"
#include "kernels/flt/flt_attention.h"

namespace mnemosyne::kernels::cpu {

// Rows of a tile: enough to pay for a trip of the sums, few enough for a core's nearest caches.
inline constexpr size_t kFltTileMax = 64;

// How far a feature's logarithm may rise above the running maximum within a part of a causal tile:
// exp(-40) of a row's own sum is still a number with all its digits.
inline constexpr float kFltRiseMax = 40;

// Aligned memory that grows and is handed out piece by piece, zeroed at the start of a task.
class FltScratch {
 public:
  // Takes back all pieces; at least `floats` can be taken.
  void Reset(size_t floats);
  // [count], aligned to 64, zeroed.
  float* Take(size_t count);
  Matrix Take(size_t rows, size_t columns) { return {Take(rows * columns), columns}; }

 private:
  struct alignas(64) Line {
    float floats[16];
  };
  std::vector<Line> lines_;
  size_t used_ = 0;
};

// What was wrong with numbers.
struct FltFaults {
  size_t queries = 0, keys = 0, values = 0, gradients = 0;  // Not finite.
  size_t outputs = 0;                                       // Overflowed.
};

// A count, padded to 16.
constexpr size_t Padded(size_t count) { return (count + 15) / 16 * 16; }

// Sizes, padded to 16.
struct FltPadded {
  size_t inputs;      // E
  size_t projection;  // P
  size_t features;    // M
  size_t values;      // Dv
  size_t masks;       // F, not padded.
};
FltPadded PaddedSizes(const FltSizes& sizes);

// Sums over keys of one head: maxima [M], psi [F, M], n [F, M, Dv], padded.
struct FltSums {
  float* maxima;
  float* psi;
  float* n;

  static size_t Count(const FltSizes& sizes);
  static FltSums At(const FltSizes& sizes, float* memory);
};

// Sets sums to those over no keys.
void ClearSums(const FltSizes& sizes, const FltSums& sums);

// Adds `from` to `to`.
void MergeSums(const FltTable& loops, const FltSizes& sizes, const FltSums& from,
               const FltSums& to);

// Between padded sums and a state as FltAttentionArgs has it. False if a number is not finite.
bool ReadState(const FltSizes& sizes, const float* state, const FltSums& sums);
void WriteState(const FltSizes& sizes, const FltSums& sums, float* state);

// Rows first to first + count of a batch entry and head.
struct FltSpan {
  size_t batch, head, first, count;
  const float* origin;  // [l]: the first position of their sequence.
};

// One side, queries or keys, of a tile.
struct FltSide {
  Matrix x;         // [T, E]: scaled rows, with waves behind in the additive form.
  Matrix logits;    // [T, P]
  Matrix features;  // [T, M]
  Matrix masks;     // [T, F]: numbers of the multiplicative form; unused else.
  float* columns;   // [F, T]: their transpose.
};

// Loads tiles of one head.
class FltTile {
 public:
  FltTile(const FltTable& loops, const FltKernel& kernel, const FltRows& rows, DataType type,
          size_t tile_rows, FltScratch& scratch);

  // Floats that it takes from its scratch.
  static size_t ScratchCount(const FltSizes& sizes, size_t tile_rows);

  const FltPadded& padded() const { return padded_; }
  const FltTable& loops() const { return loops_; }
  const FltKernel& kernel() const { return kernel_; }
  size_t tile_rows() const { return tile_rows_; }

  // Features of queries or keys, logarithms for exponential maps. Those of padding are kFltNoKey,
  // or 0 for other maps. Returns how many numbers were not finite.
  size_t Load(const FltSpan& span, const TensorIn& tensor, bool keys, FltSide& side);

  // Numbers of a tensor with `width` columns; those of padding are 0.
  size_t LoadRows(const FltSpan& span, const TensorIn& tensor, size_t width, float scale,
                  Matrix to);

  // Writes rows of `width` numbers.
  void StoreRows(const FltSpan& span, Matrix from, size_t width, const TensorOut& tensor) const;

  bool Valid(const FltSpan& span, size_t row) const {
    return rows_.mask == nullptr || rows_.mask[span.batch * rows_.length + span.first + row] != 0;
  }

  // The waves of rows: see WaveRows. With `unit`, cos and sin themselves.
  void Waves(const FltSpan& span, bool keys, bool unit, float* first, float* second,
             size_t stride) const;
  const float* Positions(const FltSpan& span) const;

  // Raises the maxima of `sums` to those of rows [begin, end) of key features and scales the sums
  // with them. Nothing for maps that are no exponentials.
  void Raise(const FltSide& keys, size_t begin, size_t end, const FltSums& sums);

  // Turns logarithms of key features into features relative to the maxima; padding becomes 0.
  void Exponentiate(const FltSpan& span, const FltSums& sums, size_t begin, size_t end,
                    FltSide& keys);

  // Adds rows [begin, end) with key features and values to the sums.
  void Add(const FltSide& keys, Matrix values, size_t begin, size_t end, const FltSums& sums);

  // The end of the rows from `begin` on, within `count`, that can be one part of a causal tile.
  size_t PartEnd(const FltSpan& span, const FltSide& keys, const FltSums& sums, size_t begin,
                 size_t count);

  // Transposes [rows, columns] of `from` into [columns, rows].
  static void Transpose(Matrix from, size_t rows, size_t columns, Matrix to);

  FltSide queries, keys;

 private:
  Matrix Scaled(Matrix x, size_t begin, size_t end, size_t columns, const float* factors);

  const FltTable& loops_;
  const FltKernel& kernel_;
  const FltRows& rows_;
  const DataType type_;
  const size_t tile_rows_;
  const FltPadded padded_;
  float* maxima_;   // [M]: workspace.
  float* factors_;  // [M]
  float* ones_;     // [r], padded: 1.
  float* zeros_;    // [r]
  Matrix scaled_;   // [T, max(M, Dv)]
};

// An error about the first fault, in the tensors of one call.
absl::Status FaultError(const FltFaults& faults, size_t batch, size_t head);

// InvalidArgument where a coordinate is not finite or too large; host memory.
absl::Status CheckPositions(const FltKernel& kernel, const FltRows& rows);

}  // namespace mnemosyne::kernels::cpu
