// Rows of tensors on their way into the quick program's shared memory, and out of it; and phases of
// waves.
//
// Written over the threads of `T`; see flt_block.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_fragments.h"
#include "kernels/cuda/flt_numbers.h"
#include "kernels/cuda/flt_quick_layout.h"

namespace mnemosyne::kernels::cuda {

// What marks a row of padding among halves of squares: it leaves no logarithm above kFltNoKey.
inline constexpr float kFltQuickNoRow = -kFltNoKey;
inline constexpr FltRowNumber kFltNoRowNumber = {kFltQuickNoRow, 0};

// Reads and writes rows of one tensor of up to 64 numbers: 16 bytes at once where all begin at such
// places.
template <class T, class Sizes>
class FltQuickRows {
 public:
  static constexpr uint32_t kEach = Sizes::kFull ? 4 : 8;  // Numbers in 16 bytes.
  static constexpr uint32_t kChunks = 64 / kEach;          // Of a row.

  MNEMOSYNE_DEVICE FltQuickRows(const FltTensor& tensor, const FltPart& part, uint32_t width)
      : base_(static_cast<char*>(tensor.data) +
              kSize * (part.batch * tensor.batch_stride + part.head * tensor.head_stride)),
        stride_(kSize * tensor.row_stride),
        width_(width),
        aligned_((reinterpret_cast<uintptr_t>(base_) | stride_) % 16 == 0) {}

  // Whether all chunks of rows can be copied by 16 bytes; where one of them is; and bytes from row
  // to row.
  MNEMOSYNE_DEVICE bool Whole() const { return aligned_ && width_ == 64; }
  MNEMOSYNE_DEVICE const char* ChunkAt(size_t row, uint32_t chunk) const {
    return base_ + row * stride_ + chunk * 16;
  }
  MNEMOSYNE_DEVICE size_t stride() const { return stride_; }

  // Begins to copy a chunk of a row to its place in shared memory; zeros unless it is `valid`.
  MNEMOSYNE_DEVICE void Fetch(size_t row, uint32_t chunk, bool valid, uint32_t* to) const {
    const uint32_t first = chunk * kEach;
    const uint32_t count = !valid || first >= width_ ? 0
                           : width_ - first < kEach  ? width_ - first
                                                     : kEach;
    const char* const from = base_ + (count > 0 ? row * stride_ + first * kSize : 0);
    if (aligned_) return T::Copy16(to, from, count * kSize);
    for (uint32_t i = 0; i < 4; ++i) to[i] = 0;
    for (uint32_t i = 0; i < count; ++i) {
      if constexpr (Sizes::kFull) {
        to[i] = reinterpret_cast<const uint32_t*>(from)[i];
      } else {
        const uint32_t bits = reinterpret_cast<const uint16_t*>(from)[i];
        to[i / 2] |= bits << (16 * (i % 2));
      }
    }
  }

  // Reads 8 numbers from `column` on, 0 past the row's end.
  MNEMOSYNE_DEVICE void ReadEight(size_t row, uint32_t column, float (&x)[8]) const {
    const char* const from = base_ + row * stride_ + column * kSize;
    if (aligned_ && column + 8 <= width_) {
      const Four first = *reinterpret_cast<const Four*>(from);
      if constexpr (Sizes::kFull) {
        const Four second = *reinterpret_cast<const Four*>(from + 16);
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t i = 0; i < 4; ++i) {
          x[i] = FloatOf(first.x[i]);
          x[4 + i] = FloatOf(second.x[i]);
        }
      } else {
        MNEMOSYNE_UNROLL_ALL
        for (uint32_t i = 0; i < 4; ++i) Unpack(first.x[i], &x[2 * i], &x[2 * i + 1]);
      }
      return;
    }
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t i = 0; i < 8; ++i) {
      x[i] = column + i < width_ ? ReadElement(Sizes::kType, from, i) : 0.0F;
    }
  }

  // Writes 8 numbers from `column` on, as far as the row goes.
  MNEMOSYNE_DEVICE void WriteEight(size_t row, uint32_t column, const float (&x)[8]) const {
    char* const to = base_ + row * stride_ + column * kSize;
    if (aligned_ && column + 8 <= width_) {
      if constexpr (Sizes::kFull) {
        *reinterpret_cast<Four*>(to) = {{BitsOf(x[0]), BitsOf(x[1]), BitsOf(x[2]), BitsOf(x[3])}};
        *reinterpret_cast<Four*>(to +
                                 16) = {{BitsOf(x[4]), BitsOf(x[5]), BitsOf(x[6]), BitsOf(x[7])}};
      } else {
        *reinterpret_cast<Four*>(to) = {
            {Pack(x[0], x[1]), Pack(x[2], x[3]), Pack(x[4], x[5]), Pack(x[6], x[7])}};
      }
      return;
    }
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t i = 0; i < 8; ++i) {
      if (column + i < width_) WriteElement(Sizes::kType, to, i, x[i]);
    }
  }
  MNEMOSYNE_DEVICE void WriteTwo(size_t row, uint32_t column, float x, float y) const {
    char* const to = base_ + row * stride_ + column * kSize;
    if (aligned_ && column + 2 <= width_) {
      if constexpr (Sizes::kFull) {
        *reinterpret_cast<Two*>(to) = {{BitsOf(x), BitsOf(y)}};
      } else {
        *reinterpret_cast<uint32_t*>(to) = Pack(x, y);
      }
      return;
    }
    if (column < width_) WriteElement(Sizes::kType, to, 0, x);
    if (column + 1 < width_) WriteElement(Sizes::kType, to, 1, y);
  }

 private:
  static constexpr size_t kSize = Sizes::kFull ? 4 : 2;
  struct alignas(16) Four {
    uint32_t x[4];
  };
  struct alignas(8) Two {
    uint32_t x[2];
  };

  static MNEMOSYNE_DEVICE uint32_t Pack(float low, float high) {
    return Sizes::kHalf ? PackFloat16(low, high) : PackBFloat16(low, high);
  }

  static MNEMOSYNE_DEVICE void Unpack(uint32_t word, float* low, float* high) {
    if constexpr (Sizes::kHalf) {
      UnpackFloat16(word, low, high);
    } else {
      *low = FloatOf(word << 16U);
      *high = FloatOf(word & 0xFFFF0000U);
    }
  }

  char* const base_;
  const size_t stride_;  // Bytes.
  const uint32_t width_;
  const bool aligned_;
};

// A part as the quick program sees it.
struct FltQuickSpace {
  const FltCall& call;
  const FltPart& part;
  FltQuickLayout at;
  uint32_t* memory;

  MNEMOSYNE_DEVICE uint32_t* Words(uint32_t place) const { return memory + place; }
  MNEMOSYNE_DEVICE float* Floats(uint32_t place) const {
    return reinterpret_cast<float*>(memory + place);
  }
  MNEMOSYNE_DEVICE bool Valid(size_t row) const {
    const FltArrays& arrays = call.arrays;
    return arrays.mask == nullptr || arrays.mask[part.batch * arrays.length + row] != 0;
  }
  MNEMOSYNE_DEVICE const float* PositionOf(size_t row) const {
    const size_t entry = call.arrays.positions_per_batch ? part.batch : 0;
    return call.arrays.positions + (entry * call.arrays.length + row) * call.shape.positions;
  }
  // Of one of the arrays of the call.
  MNEMOSYNE_DEVICE FltRowNumber NumberOf(const FltRowNumber* numbers, size_t row) const {
    return numbers[(static_cast<size_t>(part.batch) * call.shape.heads + part.head) *
                       call.arrays.length +
                   row];
  }
  // The state that a stream came with.
  MNEMOSYNE_DEVICE const float* State() const {
    const size_t count = call.shape.SumCount() + call.shape.positions;
    return call.arrays.state +
           (static_cast<size_t>(part.batch) * call.shape.heads + part.head) * count;
  }
};

// Frequencies [3, waves] and the turns of the sequence's origin, by all threads.
template <class T, class Sizes>
MNEMOSYNE_DEVICE void StageFltQuickWaves(const FltQuickSpace& space) {
  const FltShape& shape = space.call.shape;
  if (shape.waves == 0) return;
  const float* const from = space.call.weights.frequencies + static_cast<size_t>(space.part.head) *
                                                                 shape.positions *
                                                                 shape.wave_stride;
  const float* origin = space.PositionOf(space.part.start);
  if (space.call.arrays.state != nullptr) {
    const float* const kept = space.State() + shape.SumCount();
    if (*kept > kFltNoKey) origin = kept;
  }
  T::Spread(Sizes::kWaves, [&](uint32_t wave) {
    const bool there = wave < shape.waves;
    for (uint32_t axis = 0; axis < 3; ++axis) {
      space.Floats(space.at.frequencies)[axis * Sizes::kWaves + wave] =
          there && axis < shape.positions ? from[axis * shape.wave_stride + wave] : 0.0F;
    }
    space.Floats(space.at.origin)[wave] = there ? TurnsAt(shape, from, origin, wave) : 0.0F;
  });
}

// Cosines and sines of two waves in a row.
struct FltWaveNumbers {
  float cosine[2], sine[2];

  // `position` has as many coordinates as the shape.
  template <class Sizes>
  static MNEMOSYNE_DEVICE FltWaveNumbers At(const FltShape& shape, const float* frequencies,
                                            const float* origin, const float* position,
                                            uint32_t wave) {
    float turns[2] = {-origin[wave], -origin[wave + 1]};
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t axis = 0; axis < 3; ++axis) {
      if (axis > 0 && axis >= shape.positions) break;
      MNEMOSYNE_UNROLL_ALL
      for (uint32_t k = 0; k < 2; ++k) {
        const float xi = frequencies[axis * Sizes::kWaves + wave + k], at = position[axis];
#ifdef __CUDA_ARCH__
        const float product = __fmul_rn(xi, at);
#else
        const float product = xi * at;
#endif
        turns[k] += DropTurns(product) + fmaf(xi, at, -product);
      }
    }
    FltWaveNumbers waves;
    MNEMOSYNE_UNROLL_ALL
    for (uint32_t k = 0; k < 2; ++k) {
      if (Sizes::kFull) turns[k] = DropTurns(turns[k]);
      QuickCosineAndSine(turns[k], &waves.cosine[k], &waves.sine[k]);
    }
    return waves;
  }
};

// The same in parts of float16.
struct FltWavePair {
  uint32_t cosines[2], sines[2];

  template <class Sizes>
  static MNEMOSYNE_DEVICE FltWavePair At(const FltShape& shape, const float* frequencies,
                                         const float* origin, const float* position,
                                         uint32_t wave) {
    const FltWaveNumbers waves =
        FltWaveNumbers::At<Sizes>(shape, frequencies, origin, position, wave);
    const FltHalfPair c(waves.cosine[0], waves.cosine[1]), s(waves.sine[0], waves.sine[1]);
    return {{c.part[0], c.part[1]}, {s.part[0], s.part[1]}};
  }
};

}  // namespace mnemosyne::kernels::cuda
