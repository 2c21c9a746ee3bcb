// A step on its way: from its beginning until its updates have left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/data_type.h"
#include "proto/codec/frame_reader.h"
#include "proto/codec/frame_writer.h"
#include "server/session/session.h"
#include "server/session/step_number.h"
#include "server/session/step_request.h"

namespace mnemosyne::server {

// Gathers a step's gradients in the session's staging buffer, holds the session's turn while the
// step is computed, and hands its updates out. Until it is run nothing of the session has changed,
// so that a step that is broken off leaves no trace.
//
// Thread-safety: not thread-safe; passed from the stream to the executor and back.
class PendingStep {
 public:
  // Begins a step. `accepts_loss` lets its number leave a gap.
  //
  // Errors: those of ClassifyStep; InvalidArgument for factors or rates that are not one a group,
  // finite and at least 0, values of parameter_rms that are not one a
  // parameter, or absent parameters that are repeated (INVALID_STEP) or unknown
  // (UNKNOWN_PARAMETER).
  static absl::StatusOr<std::unique_ptr<PendingStep>> Begin(std::shared_ptr<Session> session,
                                                            std::unique_ptr<Turnstile::Turn> turn,
                                                            StepRequest request,
                                                            DataType gradient_encoding,
                                                            bool accepts_loss);

  // A step as the log has it: complete, with `gradients` of the parameters that took part one
  // behind the other as float32. Needs no turn of its own. DataLoss if they are too few or too
  // many.
  static absl::StatusOr<std::unique_ptr<PendingStep>> FromLog(std::shared_ptr<Session> session,
                                                              StepRequest request,
                                                              std::span<const std::byte> gradients);

  // Takes a chunk of the gradient.
  //
  // Errors: InvalidArgument with reason UNKNOWN_PARAMETER, PARAMETER_ABSENT, CELL_OUT_OF_RANGE,
  // CELL_REPEATED or WRONG_PAYLOAD_SIZE; DataLoss with reason CHECKSUM_MISMATCH. The messages name
  // the parameter.
  absl::Status Place(const codec::ChunkView& chunk);

  // The loss, where it is told at the end. Only before a run.
  void SetLoss(double loss) { request_.loss = loss; }

  // Ok if every cell is there; else InvalidArgument with reason CELL_MISSING.
  absl::Status CheckComplete() const;

  // The next updates, as one message of chunks of at most `payload_bytes` together, but at least
  // one chunk; empty after the last. Only after a run.
  std::string NextUpdates(DataType encoding, size_t payload_bytes, bool checksums);

  // Whether NextUpdates has handed out everything.
  bool exhausted() const { return next_parameter_ == session_->layout().parameters().size(); }

  const StepRequest& request() const { return request_; }
  StepKind kind() const { return kind_; }
  std::shared_ptr<const StepRules> shared_rules() const { return rules_; }
  Session& session() { return *session_; }
  const StepRules& rules() const { return *rules_; }
  bool IsAbsent(size_t parameter) const { return absent_[parameter]; }
  std::vector<uint64_t>& fingerprints() { return fingerprints_; }
  StepOutcome& outcome() { return outcome_; }

  // When its first and last messages came.
  Clock::Monotonic begin_time() const { return begin_time_; }
  Clock::Monotonic end_time() const { return end_time_; }
  void MarkEnd() { end_time_ = session_->clock().MonotonicNow(); }

 private:
  PendingStep(std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn,
              StepRequest request, DataType gradient_encoding, StepKind kind);

  absl::Status CheckGroupValues(std::span<const double> values, std::string_view what) const;
  absl::Status CheckParameterRms() const;
  absl::Status MarkAbsent();
  std::string DescribeParameter(size_t parameter) const;

  const std::shared_ptr<Session> session_;
  const std::unique_ptr<Turnstile::Turn> turn_;
  StepRequest request_;
  const DataType gradient_encoding_;
  const StepKind kind_;
  const std::shared_ptr<const StepRules> rules_;
  const Clock::Monotonic begin_time_;
  Clock::Monotonic end_time_;

  std::vector<bool> absent_;            // [parameters]
  std::vector<bool> placed_;            // [cells]
  std::vector<uint64_t> fingerprints_;  // [cells]
  size_t cells_left_;

  StepOutcome outcome_;
  size_t next_parameter_ = 0;  // Where NextUpdates goes on.
  size_t next_cell_ = 0;
};

}  // namespace mnemosyne::server
