#include "server/session/pending_step.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "base/checksum.h"
#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::server {
namespace {

// What goes around a payload, at most; counted, so that tiny tensors do not make a message of
// headers alone.
constexpr size_t kChunkHeaderBytes = 64;

template <typename... Args>
absl::Status Refuse(std::string_view reason, fmt::format_string<Args...> format, Args&&... args) {
  return WithReason(InvalidArgument(format, std::forward<Args>(args)...), reason);
}

}  // namespace

PendingStep::PendingStep(std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn,
                         StepRequest request, DataType gradient_encoding, StepKind kind)
    : session_(std::move(session)),
      turn_(std::move(turn)),
      request_(std::move(request)),
      gradient_encoding_(gradient_encoding),
      kind_(kind),
      rules_(session_->rules()),
      begin_time_(session_->clock().MonotonicNow()),
      end_time_(begin_time_),
      absent_(session_->layout().parameters().size()),
      placed_(session_->grid().cell_count()),
      fingerprints_(session_->grid().cell_count()),
      cells_left_(session_->grid().cell_count()) {}

absl::StatusOr<std::unique_ptr<PendingStep>> PendingStep::Begin(
    std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn, StepRequest request,
    DataType gradient_encoding, bool accepts_loss) {
  const SessionState& state = session->state();
  MNEMO_ASSIGN_OR_RETURN(const StepKind kind, ClassifyStep(request.number, state.last_step,
                                                           state.last.has_value(), accepts_loss));
  std::unique_ptr<PendingStep> step(new PendingStep(std::move(session), std::move(turn),
                                                    std::move(request), gradient_encoding, kind));
  MNEMO_RETURN_IF_ERROR(
      step->CheckGroupValues(step->request_.learning_rate_factors, "learning_rate_factors"));
  MNEMO_RETURN_IF_ERROR(step->CheckGroupValues(step->request_.learning_rates, "learning_rates"));
  MNEMO_RETURN_IF_ERROR(step->CheckParameterRms());
  MNEMO_RETURN_IF_ERROR(step->MarkAbsent());
  return step;
}

absl::StatusOr<std::unique_ptr<PendingStep>> PendingStep::FromLog(
    std::shared_ptr<Session> session, StepRequest request, std::span<const std::byte> gradients) {
  std::unique_ptr<PendingStep> step(new PendingStep(std::move(session), nullptr, std::move(request),
                                                    DataType::kFloat32, StepKind::kApply));
  MNEMO_RETURN_IF_ERROR(step->MarkAbsent());
  const codec::ChunkGrid& grid = step->session_->grid();
  for (size_t parameter = 0; parameter < grid.parameter_count(); ++parameter) {
    if (step->absent_[parameter]) continue;
    for (size_t cell = 0; cell < grid.CellsOf(parameter); ++cell) {
      const size_t size = grid.At(parameter, cell).count * sizeof(float);
      if (gradients.size() < size) return DataLoss("a logged step lacks gradients");
      const codec::Slice payload = gradients.first(size);
      MNEMO_RETURN_IF_ERROR(step->Place({.parameter = static_cast<int32_t>(parameter),
                                         .cell = static_cast<int32_t>(cell),
                                         .crc32c = std::nullopt,
                                         .payload = codec::SliceCursor(std::span(&payload, 1))}));
      gradients = gradients.subspan(size);
    }
  }
  if (!gradients.empty()) return DataLoss("a logged step has too many gradients");
  return step;
}

absl::Status PendingStep::CheckGroupValues(std::span<const double> values,
                                           std::string_view what) const {
  if (values.empty()) return absl::OkStatus();
  if (values.size() != rules_->groups.size()) {
    return Refuse("INVALID_STEP",
                  "wrong size: {} has {} values, expected none or one for each of "
                  "the {} groups",
                  what, values.size(), rules_->groups.size());
  }
  for (const double value : values) {
    if (!std::isfinite(value) || value < 0) {
      return Refuse("INVALID_STEP", "{} has the value {}, expected a number of at least 0", what,
                    value);
    }
  }
  return absl::OkStatus();
}

absl::Status PendingStep::CheckParameterRms() const {
  const size_t size = request_.parameter_rms.size();
  if (size == 0 || size == absent_.size()) return absl::OkStatus();
  return Refuse("INVALID_STEP",
                "wrong size: parameter_rms has {} values, expected none or one for each of the {} "
                "parameters",
                size, absent_.size());
}

absl::Status PendingStep::MarkAbsent() {
  for (const int32_t parameter : request_.absent_parameters) {
    if (parameter < 0 || static_cast<size_t>(parameter) >= absent_.size()) {
      return Refuse("UNKNOWN_PARAMETER",
                    "absent_parameters names parameter {}, but the session has parameters 0 to {}",
                    parameter, absent_.size() - 1);
    }
    const auto index = static_cast<size_t>(parameter);
    if (absent_[index]) {
      return Refuse("INVALID_STEP", "absent_parameters names {} twice", DescribeParameter(index));
    }
    absent_[index] = true;
    cells_left_ -= session_->grid().CellsOf(index);
  }
  return absl::OkStatus();
}

std::string PendingStep::DescribeParameter(size_t parameter) const {
  return fmt::format("parameter {} ('{}')", parameter,
                     session_->layout().parameters()[parameter].name);
}

absl::Status PendingStep::Place(const codec::ChunkView& chunk) {
  const codec::ChunkGrid& grid = session_->grid();
  if (chunk.parameter < 0 || static_cast<size_t>(chunk.parameter) >= grid.parameter_count()) {
    return Refuse("UNKNOWN_PARAMETER",
                  "a chunk names parameter {}, but the session has parameters 0 to {}",
                  chunk.parameter, grid.parameter_count() - 1);
  }
  const auto parameter = static_cast<size_t>(chunk.parameter);
  if (absent_[parameter]) {
    return Refuse("PARAMETER_ABSENT", "{} was called absent in this step, but a chunk of it came",
                  DescribeParameter(parameter));
  }
  if (chunk.cell < 0 || static_cast<size_t>(chunk.cell) >= grid.CellsOf(parameter)) {
    return Refuse("CELL_OUT_OF_RANGE", "a chunk names cell {} of {}, which has cells 0 to {}",
                  chunk.cell, DescribeParameter(parameter), grid.CellsOf(parameter) - 1);
  }
  const auto cell = static_cast<size_t>(chunk.cell);
  const size_t index = grid.Index(parameter, cell);
  if (placed_[index]) {
    return Refuse("CELL_REPEATED", "cell {} of {} came twice", cell, DescribeParameter(parameter));
  }
  const codec::ChunkGrid::Cell place = grid.At(parameter, cell);
  const size_t size = place.count * ElementSize(gradient_encoding_);
  if (chunk.payload.remaining() != size) {
    return Refuse("WRONG_PAYLOAD_SIZE",
                  "wrong size: cell {} of {} has {} bytes, expected {} ({} elements of {})", cell,
                  DescribeParameter(parameter), chunk.payload.remaining(), size, place.count,
                  DataTypeName(gradient_encoding_));
  }

  float* const target = session_->state().staging.as<float>() +
                        session_->layout().runs()[parameter].offset + place.start;
  // At the end of its place, so that widening can go on from the front.
  std::byte* const raw = reinterpret_cast<std::byte*>(target + place.count) - size;
  codec::SliceCursor payload = chunk.payload;
  payload.Read(raw, size);
  if (chunk.crc32c && Crc32c({raw, size}) != *chunk.crc32c) {
    return WithReason(DataLoss("the checksum of cell {} of {} does not fit its payload", cell,
                               DescribeParameter(parameter)),
                      "CHECKSUM_MISMATCH");
  }
  DecodeElements(gradient_encoding_, raw, target, place.count);
  fingerprints_[index] = Fingerprint(std::as_bytes(std::span(target, place.count)));
  placed_[index] = true;
  --cells_left_;
  return absl::OkStatus();
}

absl::Status PendingStep::CheckComplete() const {
  if (cells_left_ == 0) return absl::OkStatus();
  const codec::ChunkGrid& grid = session_->grid();
  for (size_t parameter = 0; parameter < grid.parameter_count(); ++parameter) {
    if (absent_[parameter]) continue;
    for (size_t cell = 0; cell < grid.CellsOf(parameter); ++cell) {
      if (!placed_[grid.Index(parameter, cell)]) {
        return WithMetadata(
            Refuse("CELL_MISSING",
                   "the step ended without {} of its cells, the first of them cell {} of {}",
                   cells_left_, cell, DescribeParameter(parameter)),
            "parameter", session_->layout().parameters()[parameter].name);
      }
    }
  }
  return Internal("the count of cells is off");
}

std::string PendingStep::NextUpdates(DataType encoding, size_t payload_bytes, bool checksums) {
  const codec::ChunkGrid& grid = session_->grid();
  std::string message;
  size_t used = 0;
  while (!exhausted()) {
    const size_t parameter = next_parameter_;
    if (!outcome_.takes_part[parameter]) {
      ++next_parameter_;
      continue;
    }
    const codec::ChunkGrid::Cell place = grid.At(parameter, next_cell_);
    const size_t size = place.count * ElementSize(encoding);
    if (used > 0 && used + size + kChunkHeaderBytes > payload_bytes) break;
    if (used == 0) message.reserve(std::max(size + kChunkHeaderBytes, payload_bytes));
    used += size + kChunkHeaderBytes;

    const float* const source = session_->state().staging.as<float>() +
                                session_->layout().runs()[parameter].offset + place.start;
    const optim::UpdateRule& rule = outcome_.rules[parameter];
    codec::ChunkHeader header{.parameter = static_cast<int32_t>(parameter),
                              .cell = static_cast<int32_t>(next_cell_),
                              .decay = rule.decay,
                              .scale = rule.scale,
                              .crc32c = std::nullopt};
    if (checksums) {
      // The checksum goes ahead of the payload, so the payload is written aside first.
      std::string payload(size, '\0');
      EncodeElements(encoding, source, reinterpret_cast<std::byte*>(payload.data()), place.count);
      header.crc32c = Crc32c(std::as_bytes(std::span(payload)));
      codec::AppendChunkHeader(header, size, message);
      message.append(payload);
    } else if (encoding == DataType::kFloat32) {
      codec::AppendChunkHeader(header, size, message);
      message.append(reinterpret_cast<const char*>(source), size);
    } else {
      codec::AppendChunkHeader(header, size, message);
      const size_t start = message.size();
      message.resize(start + size);
      EncodeElements(encoding, source, reinterpret_cast<std::byte*>(message.data() + start),
                     place.count);
    }
    if (++next_cell_ == grid.CellsOf(parameter)) {
      next_cell_ = 0;
      ++next_parameter_;
    }
  }
  return message;
}

}  // namespace mnemosyne::server
