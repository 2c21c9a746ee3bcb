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
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "server/security/access_policy.h"
#include "server/security/audit_log.h"

namespace mnemosyne::server {

// Accepts on a thread of its own. Thread-safe.
class SocketListener {
 public:
  // Makes the socket, with permissions for its owner alone; for everybody if the access file names
  // users, who are then told apart by what the kernel says of them. Unavailable if it cannot be
  // made. `policy` and `audit` outlive the listener.
  static absl::StatusOr<std::unique_ptr<SocketListener>> Listen(const std::string& path,
                                                                const AccessPolicy& policy,
                                                                AuditLog& audit);
  ~SocketListener();

  // Starts to accept for `server`, which outlives the listener or its Stop.
  void Serve(grpc::Server& server);

  // Accepts no more, and removes the socket.
  void Stop();

  // The uid behind `peer`, gRPC's name of a call's other end, if it came by this socket.
  std::optional<uint32_t> UidOf(std::string_view peer) const;

 private:
  SocketListener(std::string path, int fd, const AccessPolicy& policy, AuditLog& audit);

  void AcceptUntilStopped(grpc::Server& server);
  void Admit(int fd, grpc::Server& server);

  const std::string path_;
  const AccessPolicy& policy_;
  AuditLog& audit_;
  const int listen_fd_;
  const int stop_fd_;  // Readable once the listener is to stop.
  std::thread thread_;

  // A number means another connection only after the one before has been closed, which gRPC does
  // when none of its calls is left.
  mutable Mutex mutex_;
  std::map<int, uint32_t> uids_ ABSL_GUARDED_BY(mutex_);  // By file descriptor.
};

}  // namespace mnemosyne::server
