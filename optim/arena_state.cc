#include "optim/arena_state.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"

namespace mnemosyne::optim {
namespace {

constexpr size_t kWordBytes = 4;

// More than any device has, and far from where sums of it overflow.
constexpr size_t kTooManyBytes = size_t{1} << 60;

size_t ArenaBytes(const ParameterLayout& layout, const SlotSpec& slot) {
  size_t bytes = 0;
  const bool overflows = __builtin_mul_overflow(layout.arena_size() / slot.elements_per_word,
                                                slot.words_per_element * kWordBytes, &bytes);
  return overflows ? kTooManyBytes : std::min(bytes, kTooManyBytes);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ArenaState>> ArenaState::Create(const ParameterLayout& layout,
                                                               std::span<const SlotSpec> slots,
                                                               kernels::Backend& backend) {
  std::unique_ptr<ArenaState> state(new ArenaState(layout, slots));
  for (const SlotSpec& slot : slots) {
    MNEMO_ASSIGN_OR_RETURN(kernels::Buffer arena, backend.Allocate(ArenaBytes(layout, slot)));
    state->arenas_.push_back(std::move(arena));
  }
  return state;
}

size_t ArenaState::ByteCount(const ParameterLayout& layout, std::span<const SlotSpec> slots) {
  size_t bytes = 0;
  for (const SlotSpec& slot : slots) bytes += ArenaBytes(layout, slot);
  return bytes;
}

std::vector<StateTensor> ArenaState::Tensors() const {
  std::vector<StateTensor> tensors;
  tensors.reserve(layout_.runs().size() * slots_.size());
  for (size_t i = 0; i < layout_.runs().size(); ++i) {
    const ParameterLayout::Run& run = layout_.runs()[i];
    for (size_t k = 0; k < slots_.size(); ++k) {
      const SlotSpec& slot = slots_[k];
      const size_t words = (run.count + slot.elements_per_word - 1) / slot.elements_per_word *
                           slot.words_per_element;
      const bool shaped = slot.elements_per_word == 1 && slot.words_per_element == 1;
      std::vector<int64_t> shape = shaped ? layout_.parameters()[i].shape
                                          : std::vector<int64_t>{static_cast<int64_t>(words)};
      const size_t offset = run.offset / slot.elements_per_word * slot.words_per_element;
      tensors.push_back({slot.name, i, std::move(shape), DataType::kFloat32,
                         arenas_[k].data() + offset * kWordBytes, words * kWordBytes});
    }
  }
  return tensors;
}

}  // namespace mnemosyne::optim
