#include "server/session/state_loader.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/session/device_call.h"
#include "server/session/pending_step.h"
#include "server/session/state_texts.h"
#include "server/session/step_runner.h"
#include "server/store/snapshot_file.h"
#include "server/store/step_log.h"

namespace mnemosyne::server {
namespace {

constexpr size_t kPieceBytes = size_t{8} << 20;

std::string Describe(const Generation& generation, const absl::Status& status) {
  return fmt::format("generation {} of step {}: {}", generation.number, generation.step,
                     ErrorMessage(status));
}

// DataLoss unless the snapshot has these tensors, and two more.
absl::Status CheckTensors(const std::vector<SnapshotTensor>& stored,
                          const std::vector<optim::StateTensor>& targets,
                          std::span<const optim::ParameterSpec> parameters) {
  if (stored.size() != targets.size() + 2) {
    return DataLoss("it has {} tensors, expected {}", stored.size(), targets.size() + 2);
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    const SnapshotTensor expected = DescribeTensor(targets[i], parameters);
    if (stored[i].name != expected.name || stored[i].type != expected.type ||
        stored[i].shape != expected.shape || stored[i].byte_count != expected.byte_count) {
      return DataLoss("tensor {} is '{}' with {} bytes, expected '{}' with {}", i, stored[i].name,
                      stored[i].byte_count, expected.name, expected.byte_count);
    }
  }
  return absl::OkStatus();
}

// Reads tensors into the memory of a device that computes in the host's.
absl::Status ReadInPlace(SnapshotReader& reader, const std::vector<optim::StateTensor>& targets) {
  for (const optim::StateTensor& target : targets) {
    FAIL_POINT("load.read");
    MNEMO_RETURN_IF_ERROR(reader.Read({target.data, target.byte_count}));
  }
  return absl::OkStatus();
}

// Reads tensors piece by piece and uploads them.
absl::Status ReadAndUpload(SnapshotReader& reader, const std::vector<optim::StateTensor>& targets,
                           StepExecutor& executor) {
  size_t all = 0;
  for (const optim::StateTensor& target : targets) all += target.byte_count;
  const size_t piece_bytes = std::min(kPieceBytes, all);
  const auto piece = std::make_unique_for_overwrite<std::byte[]>(piece_bytes);
  size_t tensor = 0;
  size_t offset = 0;
  for (size_t left = all; left > 0;) {
    const size_t size = std::min(piece_bytes, left);
    MNEMO_RETURN_IF_ERROR(reader.Read({piece.get(), size}));
    left -= size;
    FAIL_POINT("load.read");
    // Several small tensors share a trip to the device.
    const auto upload = [&](StepExecutor::Device& device) -> absl::Status {
      FAIL_POINT("load.upload");
      for (size_t from = 0; from < size;) {
        const optim::StateTensor& target = targets[tensor];
        const size_t part = std::min(size - from, target.byte_count - offset);
        MNEMO_RETURN_IF_ERROR(
            device.backend().Upload(piece.get() + from, target.data + offset, part));
        from += part;
        offset += part;
        if (offset == target.byte_count) {
          ++tensor;
          offset = 0;
        }
      }
      return device.backend().Synchronize();
    };
    MNEMO_RETURN_IF_ERROR(CallDevice(executor, upload));
  }
  return absl::OkStatus();
}

// Fills the tensors of the optimizer's state, which have just been made. In the session's turn
// nobody else looks at them.
absl::Status ReadTensors(SnapshotReader& reader, Session& session, StepExecutor& executor,
                         int64_t& byte_count) {
  std::vector<optim::StateTensor> targets;
  MNEMO_RETURN_IF_ERROR(CallDevice(executor, [&](StepExecutor::Device&) {
    targets = session.state().optimizer->Tensors();
    return absl::OkStatus();
  }));
  MNEMO_RETURN_IF_ERROR(CheckTensors(reader.tensors(), targets, session.layout().parameters()));
  MNEMO_RETURN_IF_ERROR(executor.has_own_memory() ? ReadAndUpload(reader, targets, executor)
                                                  : ReadInPlace(reader, targets));
  for (const optim::StateTensor& target : targets) {
    byte_count += static_cast<int64_t>(target.byte_count);
  }
  return absl::OkStatus();
}

// Makes the state of one generation; the session is not resident if that fails.
absl::Status LoadGeneration(const Generation& generation, const std::shared_ptr<Session>& session,
                            StepExecutor& executor, int64_t& byte_count) {
  MNEMO_ASSIGN_OR_RETURN(auto reader, SnapshotReader::Open(generation.path));
  const SnapshotTexts& texts = reader->texts();
  if (!texts.contains(kSessionText) || !texts.contains(kStateText)) {
    return DataLoss("it is no snapshot of a session");
  }
  MNEMO_ASSIGN_OR_RETURN(SessionRecord record, RecordFromJson(texts.at(kSessionText)));
  if (record.name != session->name()) return DataLoss("it is of another session");

  // The disk works while memory is made.
  if (texts.at(kStateText) == kFullState) reader->ReadAhead();
  MNEMO_RETURN_IF_ERROR(CallDevice(
      executor, [&](StepExecutor::Device& device) { return session->Allocate(device.backend()); }));
  SessionState& state = session->state();
  state.last_step = record.step;
  if (texts.at(kStateText) == kFullState) {
    MNEMO_RETURN_IF_ERROR(ReadTensors(*reader, *session, executor, byte_count));
    if (reader->tensors()[reader->tensors().size() - 2].byte_count !=
        state.clocks.size() * sizeof(int64_t)) {
      return DataLoss("it has another number of clocks");
    }
    MNEMO_RETURN_IF_ERROR(reader->Read(std::as_writable_bytes(std::span(state.clocks))));
    std::vector<std::byte> last(reader->tensors().back().byte_count);
    MNEMO_RETURN_IF_ERROR(reader->Read(last));
    if (!last.empty()) {
      MNEMO_ASSIGN_OR_RETURN(state.last, LastStepFromBytes(last));
    }
  }
  MNEMO_RETURN_IF_ERROR(reader->Finish());
  record.spec.parameters.clear();
  MNEMO_ASSIGN_OR_RETURN(auto rules, ResolveRules(record.spec, session->optimizer()));
  session->SetRules(std::move(record.spec), std::move(rules));
  return absl::OkStatus();
}

// Takes one logged step; passes over one that the snapshot contains.
absl::Status TakeAgain(std::span<const std::byte> bytes, const std::shared_ptr<Session>& session,
                       StepExecutor& executor, int64_t& taken) {
  std::span<const std::byte> gradients;
  MNEMO_ASSIGN_OR_RETURN(LoggedStep logged, LoggedStepFromBytes(bytes, gradients));
  const SessionState& state = session->state();
  if (!logged.spec.empty()) {
    MNEMO_ASSIGN_OR_RETURN(SessionSpec spec, SpecFromJson(logged.spec));
    MNEMO_ASSIGN_OR_RETURN(auto rules, ResolveRules(spec, session->optimizer()));
    session->SetRules(std::move(spec), std::move(rules));
  }
  if (logged.request.number <= state.last_step) return absl::OkStatus();
  if (logged.previous_step != state.last_step) {
    return DataLoss("step {} was logged after step {}, but the state is that of step {}",
                    logged.request.number, logged.previous_step, state.last_step);
  }
  FAIL_POINT("load.step");
  MNEMO_ASSIGN_OR_RETURN(auto step,
                         PendingStep::FromLog(session, std::move(logged.request), gradients));
  MNEMO_RETURN_IF_ERROR(CallDevice(executor, [&](StepExecutor::Device& device) {
    return RunStep(*step, session->rule(), device.backend());
  }));
  ++taken;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SessionRecord> ReadRecord(const SessionFolder& folder,
                                         std::vector<std::string>& passed_over) {
  for (const Generation& generation : folder.Generations()) {
    auto reader = SnapshotReader::Open(generation.path);
    absl::Status status = reader.status();
    if (status.ok()) {
      const auto found = (*reader)->texts().find(kSessionText);
      if (found != (*reader)->texts().end()) {
        auto record = RecordFromJson(found->second);
        if (record.ok()) return record;
        status = record.status();
      } else {
        status = DataLoss("it is no snapshot of a session");
      }
    }
    passed_over.push_back(Describe(generation, status));
  }
  return DataLoss("no snapshot can be read");
}

absl::StatusOr<LoadReport> LoadState(const std::shared_ptr<Session>& session,
                                     const SessionFolder& folder) {
  StepExecutor& executor = session->executor();
  const Clock::Monotonic start = session->clock().MonotonicNow();
  LoadReport report;
  bool loaded = false;
  for (const Generation& generation : folder.Generations()) {
    FAIL_POINT("load.generation");
    report.byte_count = 0;
    const absl::Status status = LoadGeneration(generation, session, executor, report.byte_count);
    if (status.ok()) {
      report.generation = generation;
      loaded = true;
      break;
    }
    MNEMO_RETURN_IF_ERROR(CallDevice(executor, [&](StepExecutor::Device&) {
      session->DropState();
      return absl::OkStatus();
    }));
    // Load is no sign of a rotten file.
    if (status.code() != absl::StatusCode::kDataLoss) return status;
    report.passed_over.push_back(Describe(generation, status));
    folder.SetAside(generation);
  }
  if (!loaded) {
    return WithReason(
        DataLoss("no snapshot of this session is whole; {}", fmt::join(report.passed_over, "; ")),
        "STATE_LOST");
  }
  for (const int64_t log : folder.Logs()) {
    // What was logged before is in the snapshot, or in a future that a rewind has given up.
    if (log < report.generation.number) continue;
    const absl::Status status =
        ReadStepLog(folder.LogOf(log), [&](std::span<const std::byte> record) {
          return TakeAgain(record, session, executor, report.logged_steps);
        });
    if (!status.ok()) {
      report.passed_over.push_back(fmt::format("log {}: {}", log, ErrorMessage(status)));
      if (status.code() == absl::StatusCode::kInternal) return status;
    }
  }
  FAIL_POINT("load.done");
  session->ReportStep(session->state().last_step);
  report.seconds = Seconds(session->clock().MonotonicNow() - start);
  return report;
}

}  // namespace mnemosyne::server
