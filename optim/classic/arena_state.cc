#include "optim/classic/arena_state.h"

#include <utility>

#include "base/status_macros.h"

namespace mnemosyne::optim {
namespace {

constexpr size_t kWordBytes = 4;

size_t ArenaBytes(const ParameterLayout& layout, const SlotSpec& slot) {
  return layout.arena_size() / slot.elements_per_word * kWordBytes;
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
      const size_t divisor = slots_[k].elements_per_word;
      const size_t words = (run.count + divisor - 1) / divisor;
      std::vector<int64_t> shape = divisor == 1 ? layout_.parameters()[i].shape
                                                : std::vector<int64_t>{static_cast<int64_t>(words)};
      tensors.push_back({slots_[k].name, i, std::move(shape), DataType::kFloat32,
                         arenas_[k].data() + run.offset / divisor * kWordBytes,
                         words * kWordBytes});
    }
  }
  return tensors;
}

}  // namespace mnemosyne::optim
