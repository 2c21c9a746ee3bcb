// What is kept of a session on the disk beside the tensors of its optimizer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "server/session/session_spec.h"
#include "server/session/session_state.h"
#include "server/session/step_request.h"

namespace mnemosyne::server {

// A session apart from its state: enough to make it again.
struct SessionRecord {
  std::string name;
  std::string token;
  std::string tenant;
  std::string request_id;
  uint64_t spec_fingerprint = 0;
  int64_t create_nanoseconds = 0;  // Since the epoch of the wall clock.
  uint64_t cell_elements = 0;
  int64_t step = 0;
  int64_t epoch = 0;
  SessionSpec spec;  // With its parameters.
};

// As JSON, in which every number comes back with the same bits, and back. DataLoss says what is
// wrong.
absl::StatusOr<std::string> ToJson(const SessionRecord& record);
absl::StatusOr<SessionRecord> RecordFromJson(std::string_view json);

// A spec alone, without its parameters.
absl::StatusOr<std::string> ToJson(const SessionSpec& spec);
absl::StatusOr<SessionSpec> SpecFromJson(std::string_view json);

// What answers the last step once more, as bytes, and back.
std::vector<std::byte> ToBytes(const LastStep& last);
absl::StatusOr<LastStep> LastStepFromBytes(std::span<const std::byte> bytes);

// One step as the log has it: what the client said, the rules that were in force, and the gradients
// of the parameters that took part, one behind the other as float32.
struct LoggedStep {
  StepRequest request;
  int64_t previous_step = 0;  // The session's last step when it came.
  std::string spec;           // JSON of the rules' spec; empty for those of the step before.
};

std::vector<std::byte> ToBytes(const LoggedStep& step);

// Reads the front of a record of the log; `gradients` gets the rest.
absl::StatusOr<LoggedStep> LoggedStepFromBytes(std::span<const std::byte> bytes,
                                               std::span<const std::byte>& gradients);

}  // namespace mnemosyne::server
