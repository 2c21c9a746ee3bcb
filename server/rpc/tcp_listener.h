// The daemon's TCP addresses. gRPC's own listener takes whatever comes; this one asks the guard of
// connections first.
#pragma once

#include <grpcpp/server_builder.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/rpc/accept_loop.h"
#include "server/rpc/connection_guard.h"

namespace mnemosyne::server {

// One HOST:PORT, with all addresses that the host's name leads to. Accepts on a thread of its own.
class TcpListener {
 public:
  using Acceptor = std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor>;

  // Binds the address, and listens; `guard` outlives the listener. Unavailable with the system's
  // reason if it cannot.
  static absl::StatusOr<std::unique_ptr<TcpListener>> Listen(const std::string& address,
                                                             ConnectionGuard& guard);

  // Hands connections to the server of `acceptor`, which has been started.
  void Serve(Acceptor acceptor);

  // Accepts no more. Called before the server shuts down.
  void Stop();

  // HOST:PORT, with the port that was taken.
  const std::string& address() const { return address_; }

 private:
  TcpListener(std::string address, std::vector<int> fds, ConnectionGuard& guard)
      : address_(std::move(address)), guard_(guard), loop_(std::move(fds)) {}

  void Accepted(int fd);

  const std::string address_;
  ConnectionGuard& guard_;
  Acceptor acceptor_;
  AcceptLoop loop_;
};

}  // namespace mnemosyne::server
