// What a session keeps for the coordinate-wise optimizer.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/coordinate_sizes.h"
#include "optim/arena_state.h"
#include "optim/mnemosyne/loss_trace.h"
#include "optim/mnemosyne/mnemosyne_state.h"
#include "optim/optimizer.h"

namespace mnemosyne::optim {

// The slots of a coordinate, by parameter: `fast`, `slow` and `square`, the means r1, r2 and s;
// `log_step`, the log step size over its prior; `update`, which a replay answers; `content` and
// `mass` of its memory, in the order of coordinate_sizes.h.
enum CoordinateSlot : size_t { kFast, kSlow, kSquare, kLogStep, kLastUpdate, kContent, kMass };
std::vector<SlotSpec> CoordinateSlots(const kernels::CoordinateSizes& sizes);

// Tensors: the slots, `scale` of each parameter, and, with the first parameter, `session`: the
// numbers of a LossTrace in float64.
class CoordinateState final : public OptimizerState {
 public:
  // `layout` and `slots` outlive the state. ResourceExhausted if the device has no room.
  static absl::StatusOr<std::unique_ptr<CoordinateState>> Create(const ParameterLayout& layout,
                                                                 std::span<const SlotSpec> slots,
                                                                 kernels::Backend& backend);

  // Bytes that Create allocates; any thread.
  static size_t ByteCount(const ParameterLayout& layout, std::span<const SlotSpec> slots);

  std::vector<StateTensor> Tensors() const override;

  const ParameterLayout& layout() const { return arenas_->layout(); }

  // The arena of a slot, on the device.
  float* arena(CoordinateSlot slot) const { return arenas_->arena<float>(slot); }

  // A LossTrace and a ScaleRecord for each parameter, on the device.
  std::byte* session() const { return session_.data(); }
  std::byte* scales() const { return scales_.data(); }

 private:
  CoordinateState() = default;

  std::unique_ptr<ArenaState> arenas_;
  kernels::Buffer session_;
  kernels::Buffer scales_;
};

}  // namespace mnemosyne::optim
