// The daemon's Unix-domain socket. gRPC's own listener does not say who is at the other end; this
// one asks the kernel, and hands gRPC the connections of those who may come.
#pragma once

#include <grpcpp/server.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "server/rpc/accept_loop.h"
#include "server/rpc/connection_guard.h"
#include "server/security/access_policy.h"
#include "server/security/audit_log.h"

namespace mnemosyne::server {

// Accepts on a thread of its own. Thread-safe.
class SocketListener {
 public:
  // Makes the socket, with permissions for its owner alone; for everybody if the access file names
  // users, who are then told apart by what the kernel says of them. Unavailable if it cannot be
  // made. All that it is given outlives the listener.
  static absl::StatusOr<std::unique_ptr<SocketListener>> Listen(const std::string& path,
                                                                const AccessPolicy& policy,
                                                                AuditLog& audit,
                                                                ConnectionGuard& guard);
  ~SocketListener();

  // Starts to accept for `server`, which outlives the listener or its Stop.
  void Serve(grpc::Server& server);

  // Accepts no more, and removes the socket.
  void Stop();

  // The uid behind `peer`, gRPC's name of a call's other end, if it came by this socket.
  std::optional<uint32_t> UidOf(std::string_view peer) const;

 private:
  SocketListener(std::string path, int fd, const AccessPolicy& policy, AuditLog& audit,
                 ConnectionGuard& guard);

  void Admit(int fd, grpc::Server& server);

  const std::string path_;
  const AccessPolicy& policy_;
  AuditLog& audit_;
  ConnectionGuard& guard_;
  AcceptLoop loop_;
  bool stopped_ = false;

  // A number means another connection only after the one before has been closed, which gRPC does
  // when none of its calls is left.
  mutable Mutex mutex_;
  std::map<int, uint32_t> uids_ ABSL_GUARDED_BY(mutex_);  // By file descriptor.
};

}  // namespace mnemosyne::server
