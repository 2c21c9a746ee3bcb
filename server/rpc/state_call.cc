#include "server/rpc/state_call.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/checksum.h"
#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/rpc/session_codec.h"
#include "server/rpc/state_header.h"
#include "server/rpc/status_codec.h"

namespace mnemosyne::server {
namespace {

// Bytes of a state in one message.
constexpr size_t kPartBytes = 1 << 20;

// How often room is made for an import, should others take it.
constexpr int kRoomTries = 5;

absl::Status Violation(std::string_view what) {
  return WithReason(InvalidArgument("{}", what), "PROTOCOL_VIOLATION");
}

// A place in the bytes of all tensors together.
class TensorCursor {
 public:
  explicit TensorCursor(std::vector<optim::StateTensor> tensors) : tensors_(std::move(tensors)) {}

  // Calls `visit(device bytes, size)` for the next runs, `size` bytes in all, or as many as are
  // left; returns how many.
  template <typename Visit>
  absl::StatusOr<size_t> Advance(size_t size, Visit visit) {
    size_t done = 0;
    while (done < size && index_ < tensors_.size()) {
      const optim::StateTensor& tensor = tensors_[index_];
      const size_t part = std::min(size - done, tensor.byte_count - offset_);
      if (part > 0) MNEMO_RETURN_IF_ERROR(visit(tensor.data + offset_, part));
      done += part;
      offset_ += part;
      if (offset_ == tensor.byte_count) {
        ++index_;
        offset_ = 0;
      }
    }
    return done;
  }

  bool at_end() const { return index_ == tensors_.size(); }

 private:
  std::vector<optim::StateTensor> tensors_;
  size_t index_ = 0;
  size_t offset_ = 0;
};

// Each step of an export follows from the one before, so that no two run at once: the turn, the
// header, then read and write in turn, then the end. Only Finish, the last, lets OnDone delete it.
class ExportReactor final : public grpc::ServerWriteReactor<v1::ExportStateResponse> {
 public:
  ExportReactor(SessionStore& store, StreamOwner owner, Watch watch,
                const v1::ExportStateRequest& request, ConnectionCall call)
      : owner_(std::move(owner)), watch_(std::move(watch)), call_(std::move(call)) {
    const absl::Status status = Start(store, request);
    if (owner_.record) owner_.record("ExportState", request.name(), status);
    if (!status.ok()) End(status);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the client is gone"));
    call_.Answers(0);
    if (const absl::Status status = (*watch_)->Progress(); !status.ok()) return End(status);
    if (ended_) return End(absl::OkStatus());
    const absl::Status submitted = session_->executor().Submit(
        session_->tenant(), [this](StepExecutor::Device& device) { WriteNext(device.backend()); });
    if (!submitted.ok()) End(submitted);
  }

  void OnDone() override {
    if (watch_.ok()) (*watch_)->Close();
    delete this;
  }

 private:
  absl::Status Start(SessionStore& store, const v1::ExportStateRequest& request) {
    MNEMO_RETURN_IF_ERROR(watch_.status());
    MNEMO_ASSIGN_OR_RETURN(session_,
                           store.FindWithToken(owner_.caller, request.name(), request.token()));
    return store.AskTurn(session_, [this](absl::StatusOr<std::unique_ptr<Turnstile::Turn>> turn) {
      if (!turn.ok()) return End(turn.status());
      turn_ = *std::move(turn);
      WriteHeader();
    });
  }

  void WriteHeader() {
    FAIL_POINT("export.header");
    std::vector<optim::StateTensor> tensors = session_->state().optimizer->Tensors();
    *message_.mutable_part()->mutable_header() = MakeStateHeader(*session_, tensors);
    cursor_ = std::make_unique<TensorCursor>(std::move(tensors));
    Write();
  }

  void WriteNext(kernels::Backend& backend) {
    if (cursor_->at_end()) {
      FAIL_POINT("export.end");
      ended_ = true;
      message_.mutable_part()->mutable_end()->set_crc32c(crc32c_);
      return Write();
    }
    FAIL_POINT("export.data");
    std::string& data = *message_.mutable_part()->mutable_data();
    data.resize(kPartBytes);
    auto* target = reinterpret_cast<std::byte*>(data.data());
    const auto read = cursor_->Advance(kPartBytes, [&](std::byte* source, size_t size) {
      const absl::Status status = backend.Download(source, target, size);
      target += size;
      return status;
    });
    if (!read.ok()) return End(read.status());
    data.resize(*read);
    crc32c_ = ExtendCrc32c(crc32c_, std::as_bytes(std::span(data)));
    Write();
  }

  void Write() {
    call_.Answers(static_cast<int64_t>(message_.ByteSizeLong()));
    StartWrite(&message_);
  }

  void End(const absl::Status& status) {
    turn_.reset();
    Finish(ToGrpcStatus(status));
  }

  const StreamOwner owner_;
  const Watch watch_;
  ConnectionCall call_;
  std::shared_ptr<Session> session_;
  std::unique_ptr<Turnstile::Turn> turn_;
  std::unique_ptr<TensorCursor> cursor_;
  v1::ExportStateResponse message_;
  uint32_t crc32c_ = 0;
  bool ended_ = false;
};

// As an export, in the other direction: the new state is filled aside.
class ImportReactor final : public grpc::ServerReadReactor<v1::ImportStateRequest> {
 public:
  ImportReactor(SessionStore& store, StreamOwner owner, Watch watch,
                v1::ImportStateResponse& response, ConnectionCall call)
      : store_(store),
        owner_(std::move(owner)),
        watch_(std::move(watch)),
        call_(std::move(call)),
        response_(response) {
    if (watch_.ok()) {
      StartRead(&message_);
    } else {
      End(watch_.status());
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(Violation("the import ended before its end part; nothing was changed"));
    call_.Took(static_cast<int64_t>(message_.ByteSizeLong()));
    if (const absl::Status status = (*watch_)->Progress(); !status.ok()) return End(status);
    switch (message_.part().part_case()) {
      case v1::StatePart::kHeader:
        return EndOnError(TakeHeader());
      case v1::StatePart::kData:
        return EndOnError(TakeData());
      case v1::StatePart::kEnd:
        return EndOnError(TakeEnd());
      case v1::StatePart::PART_NOT_SET:
        return End(Violation("a message of the import holds no part"));
    }
  }

  void OnDone() override {
    if (watch_.ok()) (*watch_)->Close();
    delete this;
  }

 private:
  // Runs `task` on the thread of the device, and ends the import if it fails.
  absl::Status Submit(std::function<absl::Status(StepExecutor::Device&)> task) {
    return place_.executor->Submit(session_->tenant(),
                                   [this, task = std::move(task)](StepExecutor::Device& device) {
                                     const absl::Status status = task(device);
                                     if (!status.ok()) End(status);
                                   });
  }

  absl::Status TakeHeader() {
    if (session_ != nullptr) return Violation("a second header came");
    FAIL_POINT("import.header");
    MNEMO_ASSIGN_OR_RETURN(session_,
                           store_.FindWithToken(owner_.caller, message_.name(), message_.token()));
    MNEMO_RETURN_IF_ERROR(session_->CheckUsable());
    MNEMO_ASSIGN_OR_RETURN(share_, store_.quotas().Take(session_->tenant(),
                                                        {.memory_bytes = session_->state_bytes(),
                                                         .device_bytes = session_->state_bytes()}));
    header_ = message_.part().header();
    place_ = session_->place();
    return Reserve(kRoomTries);
  }

  absl::Status Reserve(int room_tries) {
    const int64_t bytes = session_->state_bytes();
    const MemoryAmounts amounts =
        session_->can_park() ? MemoryAmounts{.device = bytes, .ordinal = place_.executor->ordinal()}
                             : MemoryAmounts{.host = bytes};
    auto reserved = store_.budget().Reserve(amounts);
    if (reserved.ok()) {
      reservation_ = *std::move(reserved);
      return MakeState();
    }
    if (store_.keeper() == nullptr || room_tries == 0) return reserved.status();
    // Other sessions leave memory for it. Somebody else may be quicker.
    store_.keeper()->MakeRoom(amounts, [this, room_tries](const absl::Status& made) {
      EndOnError(Reserve(made.ok() ? room_tries - 1 : 0));
    });
    return absl::OkStatus();
  }

  absl::Status MakeState() {
    return Submit([this](StepExecutor::Device&) -> absl::Status {
      MNEMO_ASSIGN_OR_RETURN(state_, place_.optimizer->Init(session_->layout()));
      std::vector<optim::StateTensor> tensors = state_->Tensors();
      MNEMO_RETURN_IF_ERROR(CheckStateHeader(header_, *session_, tensors));
      cursor_ = std::make_unique<TensorCursor>(std::move(tensors));
      StartRead(&message_);
      return absl::OkStatus();
    });
  }

  absl::Status TakeData() {
    if (cursor_ == nullptr) return Violation("data came before the header");
    FAIL_POINT("import.data");
    return Submit([this](StepExecutor::Device& device) -> absl::Status {
      const std::string& data = message_.part().data();
      const auto* source = reinterpret_cast<const std::byte*>(data.data());
      MNEMO_ASSIGN_OR_RETURN(
          const size_t taken, cursor_->Advance(data.size(), [&](std::byte* target, size_t size) {
            const absl::Status status = device.backend().Upload(source, target, size);
            source += size;
            return status;
          }));
      if (taken < data.size()) return Violation("the state has more data than its header says");
      crc32c_ = ExtendCrc32c(crc32c_, std::as_bytes(std::span(data)));
      MNEMO_RETURN_IF_ERROR(device.backend().Synchronize());
      StartRead(&message_);
      return absl::OkStatus();
    });
  }

  absl::Status TakeEnd() {
    FAIL_POINT("import.end");
    if (cursor_ == nullptr) return Violation("the end came before the header");
    if (!cursor_->at_end()) {
      return WithReason(DataLoss("the state is shorter than its header says; nothing was changed"),
                        "STATE_TRUNCATED");
    }
    if (message_.part().end().crc32c() != crc32c_) {
      return WithReason(DataLoss("the state's checksum does not fit its data; nothing was changed"),
                        "CHECKSUM_MISMATCH");
    }
    MNEMO_ASSIGN_OR_RETURN(const int64_t epoch, session_->Take(nullptr));
    session_->Release(epoch);
    return store_.AskTurn(session_, [this](absl::StatusOr<std::unique_ptr<Turnstile::Turn>> turn) {
      if (!turn.ok()) return End(turn.status());
      turn_ = *std::move(turn);
      if (&session_->executor() != place_.executor) {
        return End(WithReason(
            Unavailable("the session moved to another device meanwhile; import the state again"),
            "BUSY"));
      }
      EndOnError(Submit([this](StepExecutor::Device&) {
        PutInPlace();
        return absl::OkStatus();
      }));
    });
  }

  void PutInPlace() {
    SessionState& state = session_->state();
    state.optimizer = std::move(state_);
    state.last_step = header_.step();
    state.clocks.assign(header_.parameter_steps().begin(), header_.parameter_steps().end());
    state.last.reset();
    session_->ReportStep(state.last_step);
    FAIL_POINT("import.placed");
    if (store_.keeper() == nullptr) return Answer();
    // Whether or not it could be kept, the state is in place.
    store_.keeper()->KeepReplaced(session_, std::move(turn_),
                                  [this](const absl::Status&) { Answer(); });
  }

  void Answer() {
    FAIL_POINT("import.answer");
    *response_.mutable_session() = ToProto(*session_, /*with_parameters=*/false);
    End(absl::OkStatus());
  }

  void EndOnError(const absl::Status& status) {
    if (!status.ok()) End(status);
  }

  void End(const absl::Status& status) {
    turn_.reset();
    state_.reset();
    if (owner_.record) owner_.record("ImportState", session_ ? session_->name() : "", status);
    Finish(ToGrpcStatus(status));
  }

  SessionStore& store_;
  const StreamOwner owner_;
  const Watch watch_;
  ConnectionCall call_;
  v1::ImportStateResponse& response_;
  v1::ImportStateRequest message_;
  std::shared_ptr<Session> session_;
  Session::Place place_;  // Of the session when the import began.
  TenantQuotas::Share share_;
  MemoryBudget::Reservation reservation_;
  v1::StateHeader header_;
  std::unique_ptr<optim::OptimizerState> state_;
  std::unique_ptr<TensorCursor> cursor_;
  std::unique_ptr<Turnstile::Turn> turn_;
  uint32_t crc32c_ = 0;
};

}  // namespace

grpc::ServerWriteReactor<v1::ExportStateResponse>* StartExport(
    SessionStore& store, StreamOwner owner, Watch watch, const v1::ExportStateRequest& request,
    ConnectionCall call) {
  return new ExportReactor(store, std::move(owner), std::move(watch), request, std::move(call));
}

grpc::ServerReadReactor<v1::ImportStateRequest>* StartImport(SessionStore& store, StreamOwner owner,
                                                             Watch watch,
                                                             v1::ImportStateResponse& response,
                                                             ConnectionCall call) {
  return new ImportReactor(store, std::move(owner), std::move(watch), response, std::move(call));
}

}  // namespace mnemosyne::server
