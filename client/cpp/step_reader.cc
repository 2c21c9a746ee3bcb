#include "client/cpp/step_reader.h"

#include <algorithm>

#include "base/checksum.h"
#include "base/error.h"

namespace mnemosyne {
namespace {

template <typename... Args>
absl::Status Violation(fmt::format_string<Args...> format, Args&&... args) {
  return WithReason(Internal(format, std::forward<Args>(args)...), "PROTOCOL_VIOLATION");
}

}  // namespace

StepReader::StepReader(const codec::ChunkGrid& grid, DataType encoding, MutableTensors updates)
    : grid_(grid),
      encoding_(encoding),
      updates_(updates),
      seen_(grid.cell_count()),
      cells_left_(grid.parameter_count()),
      decays_(grid.parameter_count()) {
  for (size_t i = 0; i < cells_left_.size(); ++i) cells_left_[i] = grid.CellsOf(i);
}

absl::Status StepReader::Take(const codec::ChunkView& chunk) {
  const auto parameter = static_cast<size_t>(chunk.parameter);
  const auto cell = static_cast<size_t>(chunk.cell);
  if (chunk.parameter < 0 || parameter >= grid_.parameter_count() || chunk.cell < 0 ||
      cell >= grid_.CellsOf(parameter)) {
    return Violation("the answer has an unknown cell: cell {} of parameter {}", chunk.cell,
                     chunk.parameter);
  }
  if (seen_[grid_.Index(parameter, cell)]) {
    return Violation("the answer repeats cell {} of parameter {}", cell, parameter);
  }
  const auto [start, count] = grid_.At(parameter, cell);
  const size_t bytes = count * ElementSize(encoding_);
  if (chunk.payload.remaining() != bytes) {
    return Violation("wrong size of cell {} of parameter {}: {} bytes, expected {}", cell,
                     parameter, chunk.payload.remaining(), bytes);
  }

  // Elements of 16 bits are read into the end of the room that they fill when they are decoded.
  const auto target = updates_[parameter].subspan(start, count);
  std::byte* const raw = std::as_writable_bytes(target).data() + target.size_bytes() - bytes;
  codec::SliceCursor payload = chunk.payload;
  payload.Read(raw, bytes);
  if (chunk.crc32c && Crc32c({raw, bytes}) != *chunk.crc32c) {
    return WithReason(DataLoss("the checksum of cell {} of parameter {} differs", cell, parameter),
                      "CHECKSUM_MISMATCH");
  }
  DecodeElements(encoding_, raw, target.data(), count);
  if (chunk.scale != 1) {
    const auto scale = static_cast<float>(chunk.scale);
    for (float& element : target) element *= scale;
  }

  seen_[grid_.Index(parameter, cell)] = true;
  --cells_left_[parameter];
  decays_[parameter] = chunk.decay;
  return absl::OkStatus();
}

absl::StatusOr<StepResult> StepReader::Finish(const v1::StepDone& done,
                                              std::span<const int32_t> absent_parameters) {
  for (const int32_t parameter : absent_parameters) {
    cells_left_[static_cast<size_t>(parameter)] = 0;
  }
  for (const int32_t skipped : done.skipped_parameters()) {
    const auto parameter = static_cast<size_t>(skipped);
    if (skipped < 0 || parameter >= cells_left_.size()) {
      return Violation("the answer skips an unknown parameter: {}", skipped);
    }
    if (cells_left_[parameter] == grid_.CellsOf(parameter)) {
      std::ranges::fill(updates_[parameter], 0.0F);
      cells_left_[parameter] = 0;
    }
  }
  for (size_t parameter = 0; parameter < cells_left_.size(); ++parameter) {
    if (cells_left_[parameter] != 0) {
      return Violation("the answer lacks {} cells of parameter {}", cells_left_[parameter],
                       parameter);
    }
  }

  StepResult result;
  result.step = done.step();
  result.gradient_norm = done.gradient_norm();
  result.update_norm = done.update_norm();
  result.clip_factor = done.clip_factor();
  result.non_finite_count = done.non_finite_count();
  result.skipped_parameters.assign(done.skipped_parameters().begin(),
                                   done.skipped_parameters().end());
  result.decays = decays_;
  result.last_durable_step = done.last_durable_step();
  result.durability_error = done.durability_error();
  result.replayed = done.replayed();
  result.receive_seconds = done.receive_seconds();
  result.queue_seconds = done.queue_seconds();
  result.compute_seconds = done.compute_seconds();
  if (done.has_guard()) {
    const v1::GuardReport& guard = done.guard();
    result.guard = GuardReport{guard.level(), guard.trips(), guard.capped_chunks()};
  }
  return result;
}

}  // namespace mnemosyne
