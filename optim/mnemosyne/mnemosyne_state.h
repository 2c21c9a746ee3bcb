// What a session keeps for the flagship.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "optim/mnemosyne/chunk_layout.h"
#include "optim/mnemosyne/guard.h"
#include "optim/mnemosyne/loss_trace.h"
#include "optim/optimizer.h"

namespace mnemosyne::optim {

// What the whole session shares, all 0 at the start: float64 numbers in the order of a tensor of
// the state.
struct SessionRecord {
  LossTrace trace;
  Guard guard;
};
static_assert(sizeof(SessionRecord) == 11 * sizeof(double));

// What is known of a parameter's scale: half the log of its rms at the start over 1/sqrt(fan-in),
// clipped, and 1 if that was told and not 0; else 0 and 0.
struct ScaleRecord {
  float log_rms = 0;
  float told = 0;
};

// Tensors, by parameter: `fast`, `square` and `slow`, the memories of coordinates r1, s and r2, in
// the parameter's shape, or with 16 bits each `fast`, `square_root` and `slow`, where s is
// (square_root / square_root_factor)^2 with a factor a chunk; of its chunks `tokens`, `content` and
// `mass` of the memory in time (with a recurrent rule `read` in place of `mass`, what was read
// last; with the delta rule neither), and `choices`; of its cells `gains`; `scale`; and, with the
// first parameter, `session`.
class MnemosyneState final : public OptimizerState {
 public:
  // `layout` outlives the state. ResourceExhausted if the device has no room.
  static absl::StatusOr<std::unique_ptr<MnemosyneState>> Create(const ParameterLayout& layout,
                                                                const MnemosyneWeights& weights,
                                                                kernels::Backend& backend);

  // Bytes that Create allocates, about; any thread.
  static size_t ByteCount(const ParameterLayout& layout, const kernels::MnemosyneSizes& sizes);

  // Bytes of the tensors for each element of full chunks.
  static double BytesPerElement(const kernels::MnemosyneSizes& sizes);

  std::vector<StateTensor> Tensors() const override;
  const StepNotes& notes() const override { return notes_; }
  StepNotes& mutable_notes() { return notes_; }

  const ParameterLayout& layout() const { return layout_; }
  const ChunkLayout& chunks() const { return chunks_; }
  const kernels::MnemosyneMemory& memory() const { return memory_; }

  // Records, on the host. `scales`: [T]
  SessionRecord& session() { return *session_.as<SessionRecord>(); }
  const SessionRecord& session() const { return *session_.as<const SessionRecord>(); }
  std::span<ScaleRecord> scales() { return {scales_.as<ScaleRecord>(), layout_.runs().size()}; }
  std::span<const ScaleRecord> scales() const {
    return {scales_.as<const ScaleRecord>(), layout_.runs().size()};
  }

 private:
  MnemosyneState(const ParameterLayout& layout, const MnemosyneWeights& weights)
      : layout_(layout),
        sizes_(weights.model.sizes),
        chunks_(layout, weights.model.sizes, weights.knobs) {}

  // Copies what depends on weights and layout alone to the device.
  absl::Status PutConstants(const MnemosyneWeights& weights, kernels::Backend& backend);

  const ParameterLayout& layout_;
  const kernels::MnemosyneSizes sizes_;
  const ChunkLayout chunks_;
  std::vector<kernels::Buffer> buffers_;  // What memory_ points into.
  kernels::MnemosyneMemory memory_;
  kernels::Buffer session_;  // On the host, like the next.
  kernels::Buffer scales_;
  StepNotes notes_;
};

}  // namespace mnemosyne::optim
