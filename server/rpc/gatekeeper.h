// Finds out who makes a call.
#pragma once

#include <grpcpp/server_context.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/rpc/connection_guard.h"
#include "server/rpc/socket_listener.h"
#include "server/security/access_policy.h"
#include "server/security/audit_log.h"

namespace mnemosyne::server {

// What every rpc asks first, and tells at its end. Thread-safe.
class Gatekeeper {
 public:
  // All outlive the gatekeeper.
  Gatekeeper(const AccessPolicy& policy, AuditLog& audit, ConnectionGuard& guard)
      : policy_(policy), audit_(audit), guard_(guard) {}

  // Set before the first call, if there is a socket.
  void set_socket(const SocketListener* socket) { socket_ = socket; }

  // The caller, by what its connection and its metadata show; errors as AccessPolicy::Identify. Its
  // connection is a stranger's no more.
  absl::StatusOr<Caller> Identify(const grpc::CallbackServerContext& context) const;

  // As Identify; PermissionDenied with reason ADMIN_ONLY for who is no admin.
  absl::StatusOr<Caller> IdentifyAdmin(const grpc::CallbackServerContext& context) const;

  // The call's part in what its connection costs.
  ConnectionCall Count(const grpc::CallbackServerContext& context) const {
    return guard_.Count(context.peer());
  }

  // Whether anyone is asked for anything.
  bool asks() const { return policy_.asks(); }

  // Puts what a caller did into the audit log.
  void Record(const grpc::CallbackServerContext& context, const Caller& caller,
              std::string_view action, std::string_view session, const absl::Status& outcome) const;

  void Record(std::string_view peer, const Caller& caller, std::string_view action,
              std::string_view session, const absl::Status& outcome) const {
    audit_.Record(caller, peer, action, session, outcome);
  }

  // Whether the call came by the daemon's socket.
  bool FromSocket(const grpc::CallbackServerContext& context) const;

 private:
  const AccessPolicy& policy_;
  AuditLog& audit_;
  ConnectionGuard& guard_;
  const SocketListener* socket_ = nullptr;
};

}  // namespace mnemosyne::server
