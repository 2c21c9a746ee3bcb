// What the quick program multiplies queries and keys with, once for many calls. The waves of a row
// are cosines and sines of its phases times numbers of the head; those go into the projection, so
// that a row has cosines and sines alone. The squares of waves are the same for all rows, and go
// into the biases.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/flt_fragments.h"
#include "kernels/cuda/flt_quick_layout.h"

namespace mnemosyne::kernels::cuda {

template <class Sizes>
class FltPreparation {
 public:
  // Words of all heads.
  static MNEMOSYNE_ANYWHERE size_t Words(uint32_t heads) {
    return static_cast<size_t>(heads) *
           (2 * FltPrepared<Sizes>::kWords + FltPrepared<Sizes>::kBackWords);
  }
  // Numbers of one head's keys or queries that Write takes, in any order.
  static constexpr uint32_t kCount = FltPrepared<Sizes>::kPartWords + Sizes::kFeatures;

  MNEMOSYNE_DEVICE FltPreparation(const FltCall& call, uint32_t head, bool of_keys)
      : shape_(call.shape),
        given_(call.weights),
        set_(call.weights.projection_sets > 1 ? head : 0),
        a_((of_keys ? given_.key_a : given_.query_a) + head * call.shape.wave_stride),
        b_((of_keys ? given_.key_b : given_.query_b) + head * call.shape.wave_stride),
        to_(call.prepared + FltPrepared<Sizes>::Place(head, of_keys)),
        back_(of_keys ? FltPrepared<Sizes>::OfBack(call, head) : nullptr) {}

  MNEMOSYNE_DEVICE void Write(uint32_t i) const {
    constexpr uint32_t kPairs = Sizes::kInputs / 2, kPart = FltPrepared<Sizes>::kPartWords;
    if (i >= kPart) {
      to_[kPart + i] = BitsOf(Bias(i - kPart));
      return;
    }
    const uint32_t m = i / kPairs, input = i % kPairs * 2;
    const float low = Weight(m, input), high = Weight(m, input + 1);
    if (back_ != nullptr) {
      const FltPair<2> pair(BackWeight(m, input), BackWeight(m, input + 1));
      back_[i] = pair.part[0];
      back_[kPart + i] = pair.part[1];
    }
    if (input < Sizes::kDim && !Sizes::kHalf) {
      const FltPair<2> pair(low, high);
      to_[i] = pair.part[0];
      to_[kPart + i] = pair.part[1];
    } else {
      const FltHalfPair pair(low, high);
      to_[i] = pair.part[0];
      to_[kPart + i] = pair.part[1];
    }
  }

 private:
  // Of the projection as it is given.
  MNEMOSYNE_DEVICE float Given(uint32_t m, uint32_t input) const {
    const bool mirrored = m >= shape_.projection;  // Of the hyperbolic map.
    const float* const w =
        given_.weights + static_cast<size_t>(set_) * shape_.inputs * shape_.columns;
    const float own = w[input * shape_.columns + (mirrored ? m - shape_.projection : m)];
    return mirrored ? -own : own;
  }

  MNEMOSYNE_DEVICE float Weight(uint32_t m, uint32_t input) const {
    if (m >= shape_.features) return 0;
    if (input < Sizes::kDim) {
      return input < shape_.dim ? given_.root_scale * Given(m, input) : 0.0F;
    }
    const uint32_t wave = (input - Sizes::kDim) % Sizes::kWaves;
    if (wave >= shape_.waves) return 0;
    const float first = Given(m, shape_.dim + wave);
    const float second = Given(m, shape_.dim + shape_.waves + wave);
    const bool of_cosine = input < Sizes::kDim + Sizes::kWaves;
    return of_cosine ? fmaf(a_[wave], first, -(b_[wave] * second))
                     : fmaf(b_[wave], first, a_[wave] * second);
  }

  // As the backward pass takes them.
  MNEMOSYNE_DEVICE float BackWeight(uint32_t m, uint32_t place) const {
    if (m >= shape_.features) return 0;
    if (place < Sizes::kDim) {
      const uint32_t input = FltQuickColumn(place);
      return input < shape_.dim ? given_.root_scale * Given(m, input) : 0.0F;
    }
    const uint32_t wave = (place - Sizes::kDim) % Sizes::kWaves;
    if (wave >= shape_.waves) return 0;
    const bool first = place < Sizes::kDim + Sizes::kWaves;
    return Given(m, shape_.dim + (first ? wave : shape_.waves + wave));
  }

  MNEMOSYNE_DEVICE float Bias(uint32_t m) const {
    if (m >= shape_.features) return kFltNoKey;
    float square = 0;
    for (uint32_t wave = 0; wave < shape_.waves; ++wave) {
      square = fmaf(a_[wave], a_[wave], fmaf(b_[wave], b_[wave], square));
    }
    const bool has_bias = given_.bias != nullptr && shape_.map != FeatureMapShape::kHyperbolic;
    return (has_bias ? given_.bias[set_ * shape_.columns + m] : 0.0F) - 0.5F * square;
  }

  const FltShape& shape_;
  const FltWeights& given_;
  const uint32_t set_;
  const float *const a_, *const b_;
  uint32_t* const to_;
  uint32_t* const back_;  // Null for queries: both sides have the same.
};

}  // namespace mnemosyne::kernels::cuda
