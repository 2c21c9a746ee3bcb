// One Optimize stream's gRPC side.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "server/rpc/connection_guard.h"
#include "server/rpc/optimize_conversation.h"

namespace mnemosyne::server {

// Carries messages between gRPC and an OptimizeConversation, without copying those that come in.
//
// Thread-safety: gRPC's callbacks only post events.
// Lifetime: owns itself, as gRPC's callback API asks; the conversation's last event deletes it.
class OptimizeReactor final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                              private StreamSink {
 public:
  OptimizeReactor(grpc::CallbackServerContext* context,
                  std::shared_ptr<OptimizeConversation> conversation, ConnectionCall call);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Read() override;
  void Write(std::string message) override;
  void Finish(const absl::Status& status) override;
  void Cancel() override;

  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<OptimizeConversation> conversation_;
  ConnectionCall call_;
  Mutex mutex_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;  // The context may be gone.
  grpc::ByteBuffer read_buffer_;
  grpc::ByteBuffer write_buffer_;
};

}  // namespace mnemosyne::server
