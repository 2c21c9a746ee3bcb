#include "server/rpc/optimize_reactor.h"

#include <grpcpp/server_context.h>

#include <utility>
#include <vector>

#include "server/rpc/status_codec.h"

namespace mnemosyne::server {
namespace {

// The pieces of a buffer, and a hold on them.
InboundMessage ToMessage(grpc::ByteBuffer& buffer) {
  auto pieces = std::make_shared<std::vector<grpc::Slice>>();
  InboundMessage message;
  if (buffer.Dump(pieces.get()).ok()) {
    message.slices.reserve(pieces->size());
    for (const grpc::Slice& piece : *pieces) {
      message.slices.push_back({reinterpret_cast<const std::byte*>(piece.begin()), piece.size()});
    }
  }
  message.owner = std::move(pieces);
  buffer.Clear();
  return message;
}

// A buffer that owns `text` and does not copy it.
grpc::ByteBuffer ToBuffer(std::string text) {
  auto* const owned = new std::string(std::move(text));
  grpc::Slice slice(
      owned->data(), owned->size(), [](void* string) { delete static_cast<std::string*>(string); },
      owned);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

OptimizeReactor::OptimizeReactor(grpc::CallbackServerContext* context,
                                 std::shared_ptr<OptimizeConversation> conversation,
                                 ConnectionCall call)
    : context_(context), conversation_(std::move(conversation)), call_(std::move(call)) {
  conversation_->Start(this);
}

void OptimizeReactor::OnReadDone(bool ok) {
  if (ok) {
    call_.Took(static_cast<int64_t>(read_buffer_.Length()));
    conversation_->OnMessage(ToMessage(read_buffer_));
  } else {
    conversation_->OnReadsDone();
  }
}

void OptimizeReactor::OnWriteDone(bool ok) {
  write_buffer_.Clear();
  call_.Answers(0);
  conversation_->OnWritten(ok);
}

void OptimizeReactor::OnCancel() { conversation_->OnCancelled(); }

void OptimizeReactor::OnDone() {
  {
    MutexLock lock(&mutex_);
    done_ = true;
  }
  const auto conversation = conversation_;
  conversation->OnClosed([this] { delete this; });
}

void OptimizeReactor::Read() { StartRead(&read_buffer_); }

void OptimizeReactor::Write(std::string message) {
  call_.Answers(static_cast<int64_t>(message.size()));
  write_buffer_ = ToBuffer(std::move(message));
  StartWrite(&write_buffer_);
}

void OptimizeReactor::Finish(const absl::Status& status) {
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>::Finish(ToGrpcStatus(status));
}

void OptimizeReactor::Cancel() {
  MutexLock lock(&mutex_);
  if (!done_) context_->TryCancel();
}

}  // namespace mnemosyne::server
