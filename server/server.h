// The daemon: owns everything, in order; starts, drains, stops.
#pragma once

#include <grpcpp/server.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "server/config/server_config.h"
#include "server/model/model_registry.h"
#include "server/model/model_reloader.h"
#include "server/rpc/attention_service.h"
#include "server/rpc/connection_guard.h"
#include "server/rpc/gatekeeper.h"
#include "server/rpc/keep_awake.h"
#include "server/rpc/memory_guard.h"
#include "server/rpc/optimizer_service.h"
#include "server/rpc/socket_listener.h"
#include "server/rpc/stream_registry.h"
#include "server/rpc/tcp_listener.h"
#include "server/security/access_policy.h"
#include "server/security/audit_log.h"
#include "server/security/file_poller.h"
#include "server/security/tenant_quotas.h"
#include "server/security/tls_keeper.h"
#include "server/session/device_set.h"
#include "server/session/memory_budget.h"
#include "server/session/session_keeper.h"
#include "server/session/session_store.h"

namespace mnemosyne::server {

// Thread-safety: Start, Drain and the destructor belong to one thread.
class Server {
 public:
  // Makes the devices ready and listens. FailedPrecondition or Unavailable say which option cannot
  // be met and why: a busy port, a folder that cannot be written, a device that is not there.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerConfig& config,
                                                       const Clock& clock);

  // Lets steps in hand finish, ends all streams, takes no more calls, keeps all sessions on the
  // disk, and stops. Returns within config.drain_seconds plus config.drain_snapshot_seconds and a
  // little more. False if gRPC did not let go in time, or if a device has failed: then all is kept,
  // but the process can only exit without destroying this object.
  bool Drain();

  // Where it listens, with the ports that were taken.
  const std::vector<std::string>& addresses() const { return addresses_; }
  const ServerConfig& config() const { return config_; }
  const DeviceSet& devices() const { return devices_; }

  // The models that it serves. Any thread may reload them.
  ModelRegistry& models() { return models_; }

  // Reads certificates and the access file again, and opens the audit log anew.
  void ReloadSecurity();

  ~Server();

 private:
  // What decides who may come in.
  struct Security {
    std::unique_ptr<TlsKeeper> tls;  // Null without TLS.
    std::unique_ptr<AccessPolicy> policy;
    std::unique_ptr<AuditLog> audit;
  };

  static absl::StatusOr<Security> LoadSecurity(const ServerConfig& config, const Clock& clock);

  Server(const ServerConfig& config, Security security,
         std::vector<std::unique_ptr<kernels::Backend>> backends, const Clock& clock);

  absl::Status OpenStateFolder();
  absl::Status Listen();

  void RaiseFileLimit() const;

  // How much memory the process may have before connections are ended.
  int64_t MemoryBytesMax() const;

  const ServerConfig config_;
  const Security security_;
  MemoryBudget budget_;
  int64_t base_bytes_ = 0;  // What the process has before it serves anybody.
  TenantQuotas quotas_;
  ModelRegistry models_;
  DeviceSet devices_;
  std::unique_ptr<SessionKeeper> keeper_;  // Null without a state folder.
  SessionStore store_;
  const Clock& clock_;
  StreamRegistry streams_;
  ConnectionGuard connections_;
  Gatekeeper gatekeeper_;
  ModelReloader reloader_;
  OptimizerService service_;
  AttentionService attention_;
  std::vector<std::shared_ptr<grpc::ServerCredentials>> credentials_;  // Outlive the server below.
  std::unique_ptr<SocketListener> socket_;
  std::vector<std::unique_ptr<TcpListener>> listeners_;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<KeepAwake> keep_awake_;
  std::unique_ptr<MemoryGuard> memory_guard_;
  std::unique_ptr<FilePoller> poller_;
  std::vector<std::string> addresses_;
};

}  // namespace mnemosyne::server
