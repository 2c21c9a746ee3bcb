// Keeps gRPC's callback threads from falling asleep together.
#pragma once

#include <grpcpp/server.h>

#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "mnemosyne/v1/optimizer_service.grpc.pb.h"

namespace mnemosyne::server {

// The threads that serve gRPC 1.51's callback API wait a second for an event and, if none came,
// sleep 100 ms before they look again. If all of them slept, a client that steps every 1.05 s would
// wait for them at every step. A small call of the daemon to itself, over no network, comes more
// often than that, so that the thread that took the last one is awake.
class KeepAwake {
 public:
  // Starts to call `server`, which must serve until this object is gone.
  explicit KeepAwake(grpc::Server& server);

  // Waits for the call under way.
  ~KeepAwake();

 private:
  void CallUntilStopped();

  const std::unique_ptr<v1::OptimizerService::Stub> stub_;
  Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace mnemosyne::server
