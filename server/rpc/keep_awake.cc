#include "server/rpc/keep_awake.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/channel_arguments.h>

#include <chrono>

namespace mnemosyne::server {
namespace {

// Well below the second after which a thread goes to sleep.
constexpr std::chrono::milliseconds kInterval(400);

}  // namespace

KeepAwake::KeepAwake(grpc::Server& server)
    : stub_(v1::OptimizerService::NewStub(server.InProcessChannel(grpc::ChannelArguments()))),
      thread_([this] { CallUntilStopped(); }) {}

KeepAwake::~KeepAwake() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  thread_.join();
}

void KeepAwake::CallUntilStopped() {
  while (true) {
    {
      MutexLock lock(&mutex_);
      const auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_; };
      if (lock.AwaitFor(kInterval, stopped)) return;
    }
    grpc::ClientContext context;
    v1::GetServerInfoResponse response;
    stub_->GetServerInfo(&context, {}, &response);  // Whatever the answer, it was an event.
  }
}

}  // namespace mnemosyne::server
