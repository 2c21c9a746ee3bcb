#include "server/rpc/gatekeeper.h"

#include <grpc/grpc_security_constants.h>

#include <memory>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::server {
namespace {

std::string_view View(const grpc::string_ref& text) { return {text.data(), text.size()}; }

// The names of the client's certificate, which gRPC has verified.
std::vector<std::string_view> CertificateNames(const grpc::AuthContext& auth) {
  std::vector<std::string_view> names;
  if (!auth.IsPeerAuthenticated()) return names;
  for (const auto& name : auth.FindPropertyValues(GRPC_X509_SAN_PROPERTY_NAME)) {
    names.push_back(View(name));
  }
  if (!names.empty()) return names;
  for (const auto& name : auth.FindPropertyValues(GRPC_X509_CN_PROPERTY_NAME)) {
    names.push_back(View(name));
  }
  return names;
}

}  // namespace

absl::StatusOr<Caller> Gatekeeper::Identify(const grpc::CallbackServerContext& context) const {
  const std::string peer = context.peer();
  if (!policy_.asks()) {
    guard_.Identified(peer, "");
    return policy_.Identify({});
  }
  Evidence evidence;
  const auto [first, last] = context.client_metadata().equal_range("authorization");
  if (first != last) evidence.authorization = View(first->second);
  const std::shared_ptr<const grpc::AuthContext> auth = context.auth_context();
  if (auth != nullptr) evidence.certificate_names = CertificateNames(*auth);
  if (socket_ != nullptr) evidence.uid = socket_->UidOf(peer);
  auto caller = policy_.Identify(evidence);
  if (caller.ok()) guard_.Identified(peer, caller->tenant);
  // The daemon's calls to itself, which keep its threads awake, are no strangers; they come by no
  // address.
  if (!caller.ok() && peer.find(':') != std::string::npos) {
    audit_.RecordStranger(peer, "identify", caller.status());
  }
  return caller;
}

absl::StatusOr<Caller> Gatekeeper::IdentifyAdmin(const grpc::CallbackServerContext& context) const {
  MNEMO_ASSIGN_OR_RETURN(Caller caller, Identify(context));
  if (!caller.admin) {
    return WithReason(MakeError(absl::StatusCode::kPermissionDenied,
                                "only an admin may do this; ask the operator of the daemon"),
                      "ADMIN_ONLY");
  }
  return caller;
}

void Gatekeeper::Record(const grpc::CallbackServerContext& context, const Caller& caller,
                        std::string_view action, std::string_view session,
                        const absl::Status& outcome) const {
  audit_.Record(caller, context.peer(), action, session, outcome);
}

bool Gatekeeper::FromSocket(const grpc::CallbackServerContext& context) const {
  return socket_ != nullptr && socket_->UidOf(context.peer()).has_value();
}

}  // namespace mnemosyne::server
