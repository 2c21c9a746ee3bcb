#include "client/cpp/raw_stream.h"

#include <utility>

#include "base/error.h"
#include "client/cpp/rpc_status.h"

namespace mnemosyne {
namespace {

// The queue counts in the system's time; both clocks are read anew for each wait.
std::chrono::system_clock::time_point ToSystem(RawStream::Time deadline) {
  if (deadline == RawStream::Time::max()) return std::chrono::system_clock::time_point::max();
  const auto wait = deadline - std::chrono::steady_clock::now();
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(wait);
}

}  // namespace

RawStream::RawStream(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     size_t inbox_max, const std::map<std::string, std::string>& metadata)
    : inbox_max_(inbox_max), stub_(channel) {
  for (const auto& [key, value] : metadata) context_.AddMetadata(key, value);
  // The headers leave with the first message, and the start has no event of its own.
  context_.set_initial_metadata_corked(true);
  call_ = stub_.PrepareCall(&context_, method, &queue_);
  call_->StartCall(nullptr);
  StartRead();
}

RawStream::~RawStream() {
  if (!finished_) Cancel();
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

void RawStream::StartRead() {
  if (reading_ || !read_ok_ || inbox_.size() >= inbox_max_) return;
  reading_ = true;
  ++operations_;
  call_->Read(&incoming_, reinterpret_cast<void*>(kRead));
}

void RawStream::StartFinish() {
  if (finishing_) return;
  finishing_ = true;
  ++operations_;
  call_->Finish(&status_, reinterpret_cast<void*>(kFinished));
}

bool RawStream::Pump(Time deadline) {
  if (operations_ == 0) return false;
  void* tag = nullptr;
  bool ok = false;
  if (queue_.AsyncNext(&tag, &ok, ToSystem(deadline)) != grpc::CompletionQueue::GOT_EVENT) {
    return false;
  }
  --operations_;
  switch (static_cast<Tag>(reinterpret_cast<intptr_t>(tag))) {
    case kClosed:
      break;
    case kRead:
      reading_ = false;
      read_ok_ = ok;
      if (ok) inbox_.push_back(std::exchange(incoming_, {}));
      if (ok) StartRead();
      if (!ok) StartFinish();
      break;
    case kWritten:
      writing_ = false;
      write_ok_ = ok;
      break;
    case kFinished:
      finished_ = true;
      break;
  }
  return true;
}

absl::Status RawStream::Write(const grpc::ByteBuffer& message, Time deadline) {
  while (writing_ && !finished_) {
    if (!Pump(deadline)) return MakeError(absl::StatusCode::kDeadlineExceeded, "no room to write");
  }
  if (!write_ok_ || finished_) return EndStatus();
  writing_ = true;
  ++operations_;
  call_->Write(message, reinterpret_cast<void*>(kWritten));
  while (writing_) {
    if (!Pump(deadline)) return MakeError(absl::StatusCode::kDeadlineExceeded, "no room to write");
  }
  return write_ok_ ? absl::OkStatus() : EndStatus();
}

absl::Status RawStream::Read(grpc::ByteBuffer& message, Time deadline) {
  while (inbox_.empty()) {
    if (finished_) return EndStatus();
    if (!Pump(deadline)) return MakeError(absl::StatusCode::kDeadlineExceeded, "no message came");
  }
  message = std::move(inbox_.front());
  inbox_.pop_front();
  StartRead();
  return absl::OkStatus();
}

bool RawStream::HasMessage() {
  while (Pump(std::chrono::steady_clock::now())) {
  }
  return !inbox_.empty();
}

bool RawStream::ended() {
  while (Pump(std::chrono::steady_clock::now())) {
  }
  return finished_;
}

absl::Status RawStream::EndStatus() {
  // A failed write is followed by the end of the call. Whoever does not read its last messages
  // must make room for them.
  while (!finished_) {
    inbox_.clear();
    StartRead();
    Pump(Time::max());
  }
  auto status = FromGrpc(status_);
  return status.ok() ? Unavailable("the daemon ended the stream") : status;
}

void RawStream::Close(Time deadline) {
  if (!closing_ && write_ok_ && !writing_ && !finished_) {
    closing_ = true;
    ++operations_;
    call_->WritesDone(reinterpret_cast<void*>(kClosed));
  }
  while (!finished_) {
    inbox_.clear();
    StartRead();
    if (!Pump(deadline)) return Cancel();
  }
}

void RawStream::Cancel() {
  context_.TryCancel();
  if (!reading_) StartFinish();
  // All operations fail at once after a cancellation.
  while (operations_ > 0) {
    inbox_.clear();
    Pump(Time::max());
  }
}

}  // namespace mnemosyne
