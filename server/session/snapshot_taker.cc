#include "server/session/snapshot_taker.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/session/device_call.h"
#include "server/session/session_record.h"
#include "server/session/state_texts.h"
#include "server/store/snapshot_file.h"

namespace mnemosyne::server {
namespace {

// Bytes that the device copies in one task: some milliseconds.
constexpr size_t kPieceBytes = size_t{8} << 20;

constexpr int64_t kBufferBytesMin = 64 << 10;

absl::StatusOr<SnapshotTexts> MakeTexts(const Session& session, int64_t step) {
  SessionRecord record{.name = session.name(),
                       .token = session.token(),
                       .tenant = session.tenant(),
                       .request_id = session.request_id(),
                       .spec_fingerprint = session.spec_fingerprint(),
                       .create_nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(
                                                 session.create_time().time_since_epoch())
                                                 .count(),
                       .cell_elements = session.grid().cell_elements(),
                       .step = step,
                       .epoch = session.progress().epoch,
                       .spec = session.spec()};
  const auto parameters = session.layout().parameters();
  record.spec.parameters.assign(parameters.begin(), parameters.end());
  MNEMO_ASSIGN_OR_RETURN(std::string json, ToJson(record));
  return SnapshotTexts{{kSessionText, std::move(json)}};
}

// What is copied of a session beside its tensors, at the step boundary.
struct Capture {
  int64_t step = 0;
  SnapshotTexts texts;
  std::vector<std::span<const std::byte>> state;  // The bytes of the first of `tensors`,
  bool on_host = false;                           // parked, or where the device has them.
  std::vector<SnapshotTensor> tensors;
  std::vector<int64_t> clocks;
  std::vector<std::byte> last_step;
};

absl::StatusOr<Capture> BeginCapture(Session& session) {
  Capture capture;
  const SessionState& state = session.state();
  capture.step = state.last_step;
  MNEMO_ASSIGN_OR_RETURN(capture.texts, MakeTexts(session, capture.step));
  capture.texts[kStateText] = kFullState;
  capture.on_host = state.parked != nullptr;
  if (capture.on_host) {
    capture.tensors = state.parked->tensors();
    std::span<const std::byte> rest = state.parked->bytes();
    for (const SnapshotTensor& tensor : capture.tensors) {
      capture.state.push_back(rest.first(tensor.byte_count));
      rest = rest.subspan(tensor.byte_count);
    }
  } else {
    const auto parameters = session.layout().parameters();
    for (const optim::StateTensor& tensor : state.optimizer->Tensors()) {
      capture.tensors.push_back(DescribeTensor(tensor, parameters));
      capture.state.push_back({tensor.data, tensor.byte_count});
    }
  }
  capture.clocks = state.clocks;
  if (state.last) capture.last_step = ToBytes(*state.last);
  capture.tensors.push_back({.name = kClocksTensor,
                             .type = "I64",
                             .shape = {static_cast<int64_t>(capture.clocks.size())},
                             .byte_count = capture.clocks.size() * sizeof(int64_t)});
  capture.tensors.push_back({.name = kLastStepTensor,
                             .type = "U8",
                             .shape = {static_cast<int64_t>(capture.last_step.size())},
                             .byte_count = capture.last_step.size()});
  return capture;
}

// A place in the bytes of all tensors together.
struct Cursor {
  size_t tensor = 0;
  size_t offset = 0;
};

// Copies what comes next, up to `size` bytes, to `target`; returns how much.
absl::StatusOr<size_t> Copy(const Capture& capture, Cursor& at, std::byte* target, size_t size,
                            kernels::Backend& backend) {
  size_t done = 0;
  while (done < size && at.tensor < capture.state.size()) {
    const std::span<const std::byte> tensor = capture.state[at.tensor];
    const size_t part = std::min(size - done, tensor.size() - at.offset);
    if (part > 0 && capture.on_host) {
      std::memcpy(target + done, tensor.data() + at.offset, part);
    } else if (part > 0) {
      MNEMO_RETURN_IF_ERROR(backend.Download(tensor.data() + at.offset, target + done, part));
    }
    done += part;
    at.offset += part;
    if (at.offset == tensor.size()) at = {at.tensor + 1, 0};
  }
  return done;
}

}  // namespace

CaptureBuffer::CaptureBuffer(int64_t state_bytes, int64_t bytes_max)
    : size_(static_cast<size_t>(
          std::clamp(state_bytes, kBufferBytesMin, std::max(bytes_max, kBufferBytesMin)))) {
  void* const memory = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) {
    size_ = 0;
  } else {
    data_ = static_cast<std::byte*>(memory);
  }
}

CaptureBuffer::~CaptureBuffer() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

absl::Status WriteFirstGeneration(const Session& session, const SessionFolder& folder) {
  MNEMO_ASSIGN_OR_RETURN(SnapshotTexts texts, MakeTexts(session, 0));
  texts[kStateText] = kFirstState;
  MNEMO_ASSIGN_OR_RETURN(auto writer,
                         SnapshotWriter::Create(folder.Next(0).path, "first", texts, {}));
  return writer->Commit();
}

absl::StatusOr<SnapshotReport> TakeSnapshot(const std::shared_ptr<Session>& session,
                                            std::unique_ptr<Turnstile::Turn> turn,
                                            const SessionFolder& folder, CaptureBuffer& buffer) {
  if (buffer.size() == 0) {
    return WithReason(ResourceExhausted("no memory for a snapshot"), "RESOURCE_EXHAUSTED");
  }
  StepExecutor& executor = session->executor();
  const Clock& clock = session->clock();
  const Clock::Monotonic start = clock.MonotonicNow();
  SnapshotReport report;
  Capture capture;
  Cursor cursor;
  const auto fill = [&]() -> absl::StatusOr<size_t> {
    size_t filled = 0;
    while (filled < buffer.size() && cursor.tensor < capture.state.size()) {
      const size_t piece = std::min(kPieceBytes, buffer.size() - filled);
      FAIL_POINT("capture.piece");
      const auto copy = [&](StepExecutor::Device& device) -> absl::Status {
        MNEMO_ASSIGN_OR_RETURN(const size_t copied, Copy(capture, cursor, buffer.data() + filled,
                                                         piece, device.backend()));
        filled += copied;
        return absl::OkStatus();
      };
      MNEMO_RETURN_IF_ERROR(CallDevice(executor, copy));
    }
    return filled;
  };
  const auto end_turn = [&] {
    if (turn == nullptr || cursor.tensor < capture.state.size()) return;
    FAIL_POINT("capture.end");
    turn.reset();
    report.held_seconds = Seconds(clock.MonotonicNow() - start);
  };

  FAIL_POINT("capture.begin");
  MNEMO_RETURN_IF_ERROR(CallDevice(executor, [&](StepExecutor::Device&) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(capture, BeginCapture(*session));
    return absl::OkStatus();
  }));
  report.generation = folder.Next(capture.step);
  if (session->state().log != nullptr) {
    // Steps from here on are logged behind this snapshot; if it fails, both logs are read.
    MNEMO_ASSIGN_OR_RETURN(auto log, StepLog::Open(folder.LogOf(report.generation.number)));
    log->BoundTo(session->state().log->bound());
    session->state().log = std::move(log);
    session->state().logged_rules.reset();
  }
  MNEMO_ASSIGN_OR_RETURN(size_t filled, fill());
  end_turn();
  MNEMO_ASSIGN_OR_RETURN(auto writer, SnapshotWriter::Create(report.generation.path, "snapshot",
                                                             capture.texts, capture.tensors));
  while (filled > 0) {
    for (size_t at = 0; at < filled; at += kPieceBytes) {
      MNEMO_RETURN_IF_ERROR(
          writer->Write({buffer.data() + at, std::min(kPieceBytes, filled - at)}));
    }
    MNEMO_ASSIGN_OR_RETURN(filled, fill());
    end_turn();
  }
  MNEMO_RETURN_IF_ERROR(writer->Write(std::as_bytes(std::span(capture.clocks))));
  MNEMO_RETURN_IF_ERROR(writer->Write(capture.last_step));
  MNEMO_RETURN_IF_ERROR(writer->Commit());
  std::error_code gone;  // The session may have been deleted meanwhile, with its folder.
  const uintmax_t bytes = std::filesystem::file_size(report.generation.path, gone);
  report.byte_count = gone ? 0 : static_cast<int64_t>(bytes);
  report.total_seconds = Seconds(clock.MonotonicNow() - start);
  return report;
}

}  // namespace mnemosyne::server
