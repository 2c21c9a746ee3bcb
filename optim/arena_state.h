// The state of an optimizer that keeps a few numbers for each element: flat arenas of 32-bit words
// with the layout of the parameters.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "optim/optimizer.h"

namespace mnemosyne::optim {

// One arena of a state.
struct SlotSpec {
  std::string_view name;
  // 1 for a float32 an element, in a tensor of the parameter's shape. Above it, a divisor of
  // ParameterLayout::kAlignment: a word of bits for so many elements, in a tensor [words] that is
  // called float32, though only its bits have a meaning.
  size_t elements_per_word = 1;
  // Above 1, with an elements_per_word of 1: so many float32 an element, in a tensor
  // [elements * words_per_element] whose order is the optimizer's own.
  size_t words_per_element = 1;
};

class ArenaState final : public OptimizerState {
 public:
  // Zeros. `layout` and `slots` outlive the state. ResourceExhausted if the device has no room.
  static absl::StatusOr<std::unique_ptr<ArenaState>> Create(const ParameterLayout& layout,
                                                            std::span<const SlotSpec> slots,
                                                            kernels::Backend& backend);

  // Bytes that Create allocates.
  static size_t ByteCount(const ParameterLayout& layout, std::span<const SlotSpec> slots);

  // Parameter by parameter, and slot by slot within.
  std::vector<StateTensor> Tensors() const override;

  const ParameterLayout& layout() const { return layout_; }

  // The arena of slot `slot`, on the device.
  template <typename T>
  T* arena(size_t slot) const {
    return arenas_[slot].as<T>();
  }

 private:
  ArenaState(const ParameterLayout& layout, std::span<const SlotSpec> slots)
      : layout_(layout), slots_(slots) {}

  const ParameterLayout& layout_;
  const std::span<const SlotSpec> slots_;
  std::vector<kernels::Buffer> arenas_;  // [slots]
};

}  // namespace mnemosyne::optim
