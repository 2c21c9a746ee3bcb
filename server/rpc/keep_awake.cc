#include "server/rpc/keep_awake.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/channel_arguments.h>

#include "absl/time/time.h"

namespace mnemosyne::server {
namespace {

// Well below the second after which a thread goes to sleep.
constexpr absl::Duration kInterval = absl::Milliseconds(400);

}  // namespace

KeepAwake::KeepAwake(grpc::Server& server)
    : stub_(v1::OptimizerService::NewStub(server.InProcessChannel(grpc::ChannelArguments()))),
      thread_([this] { CallUntilStopped(); }) {}

KeepAwake::~KeepAwake() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }
  thread_.join();
}

void KeepAwake::CallUntilStopped() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopped_), kInterval)) return;
    }
    grpc::ClientContext context;
    v1::GetServerInfoResponse response;
    stub_->GetServerInfo(&context, {}, &response);  // Whatever the answer, it was an event.
  }
}

}  // namespace mnemosyne::server
