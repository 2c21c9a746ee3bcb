// The daemon's side of TLS, for one listening port.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "server/security/tls_keeper.h"

namespace mnemosyne::server {

// What is asked of clients where the keeper has a client CA.
enum class ClientCertificates {
  kRequired,   // No connection without a valid one.
  kRequested,  // A connection without one is let in, one with an invalid one is not.
};

// Credentials that ask `keeper` for its files at every handshake. TLS 1.2 or newer. Each port needs
// credentials of its own; `keeper` outlives the server.
std::shared_ptr<grpc::ServerCredentials> MakeTlsCredentials(const TlsKeeper& keeper,
                                                            ClientCertificates clients);

}  // namespace mnemosyne::server
