// A unary rpc's gRPC side: what it costs its connection is counted until its answer has been read.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/server_callback.h>

#include <utility>

#include "server/rpc/connection_guard.h"
#include "server/rpc/status_codec.h"

namespace mnemosyne::server {

// Owns itself, as gRPC's callback API asks. gRPC keeps request and response alive until OnDone.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(ConnectionCall call, const google::protobuf::Message& request,
            const google::protobuf::Message& response)
      : call_(std::move(call)), response_(response) {
    call_.Took(static_cast<int64_t>(request.ByteSizeLong()));
  }

  // Answers with the response, or with the error. Once, from any thread.
  void End(const absl::Status& status) {
    if (status.ok()) call_.Answers(static_cast<int64_t>(response_.ByteSizeLong()));
    Finish(ToGrpcStatus(status));
  }

  void OnDone() override { delete this; }

 private:
  ConnectionCall call_;
  const google::protobuf::Message& response_;
};

}  // namespace mnemosyne::server
