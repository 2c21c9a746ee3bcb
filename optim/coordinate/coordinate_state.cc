#include "optim/coordinate/coordinate_state.h"

#include <utility>

#include "base/status_macros.h"

namespace mnemosyne::optim {
namespace {

constexpr int64_t kSessionNumbers = sizeof(LossTrace) / sizeof(double);
constexpr int64_t kScaleNumbers = sizeof(ScaleRecord) / sizeof(float);

}  // namespace

std::vector<SlotSpec> CoordinateSlots(const kernels::CoordinateSizes& sizes) {
  return {{.name = "fast"},
          {.name = "slow"},
          {.name = "square"},
          {.name = "log_step"},
          {.name = "update"},
          {.name = "content", .words_per_element = kernels::CoordinateContentCount(sizes)},
          {.name = "mass", .words_per_element = kernels::CoordinateMassCount(sizes)}};
}

absl::StatusOr<std::unique_ptr<CoordinateState>> CoordinateState::Create(
    const ParameterLayout& layout, std::span<const SlotSpec> slots, kernels::Backend& backend) {
  std::unique_ptr<CoordinateState> state(new CoordinateState);
  MNEMO_ASSIGN_OR_RETURN(state->arenas_, ArenaState::Create(layout, slots, backend));
  MNEMO_ASSIGN_OR_RETURN(state->session_, backend.Allocate(sizeof(LossTrace)));
  MNEMO_ASSIGN_OR_RETURN(state->scales_,
                         backend.Allocate(layout.runs().size() * sizeof(ScaleRecord)));
  return state;
}

size_t CoordinateState::ByteCount(const ParameterLayout& layout, std::span<const SlotSpec> slots) {
  return ArenaState::ByteCount(layout, slots) + sizeof(LossTrace) +
         layout.runs().size() * sizeof(ScaleRecord);
}

std::vector<StateTensor> CoordinateState::Tensors() const {
  std::vector<StateTensor> tensors = arenas_->Tensors();
  for (size_t i = 0; i < layout().runs().size(); ++i) {
    tensors.push_back({"scale",
                       i,
                       {kScaleNumbers},
                       DataType::kFloat32,
                       scales_.data() + i * sizeof(ScaleRecord),
                       sizeof(ScaleRecord)});
  }
  tensors.push_back(
      {"session", 0, {kSessionNumbers}, DataType::kFloat64, session_.data(), sizeof(LossTrace)});
  return tensors;
}

}  // namespace mnemosyne::optim
