#include "server/rpc/tcp_listener.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace mnemosyne::server {
namespace {

constexpr int kBacklog = 512;

void SetOption(int fd, int level, int name, int value) {
  ::setsockopt(fd, level, name, &value, sizeof(value));
}

uint16_t PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

// A socket that listens on `address`, on `port` if that is not 0; -1 and errno if it cannot.
int ListenOn(const addrinfo& address, uint16_t port) {
  const int fd =
      ::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, address.ai_protocol);
  if (fd < 0) return -1;
  sockaddr_storage place{};
  std::memcpy(&place, address.ai_addr, address.ai_addrlen);
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (address.ai_family == AF_INET6) {
    auto& ipv6 = reinterpret_cast<sockaddr_in6&>(place);
    // All addresses of the machine are those of both kinds.
    SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, IN6_IS_ADDR_UNSPECIFIED(&ipv6.sin6_addr) ? 0 : 1);
    if (port != 0) ipv6.sin6_port = htons(port);
  } else if (port != 0) {
    reinterpret_cast<sockaddr_in&>(place).sin_port = htons(port);
  }
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&place), address.ai_addrlen) == 0 &&
      ::listen(fd, kBacklog) == 0) {
    return fd;
  }
  const int error = errno;
  ::close(fd);
  errno = error;
  return -1;
}

// The other end, as gRPC names it; empty if it has gone.
std::string PeerOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "";
  char host[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto& ipv4 = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &ipv4.sin_addr, host, sizeof(host));
    return fmt::format("ipv4:{}:{}", host, ntohs(ipv4.sin_port));
  }
  const auto& ipv6 = reinterpret_cast<const sockaddr_in6&>(address);
  if (IN6_IS_ADDR_V4MAPPED(&ipv6.sin6_addr)) {
    ::inet_ntop(AF_INET, &ipv6.sin6_addr.s6_addr[12], host, sizeof(host));
    return fmt::format("ipv4:{}:{}", host, ntohs(ipv6.sin6_port));
  }
  ::inet_ntop(AF_INET6, &ipv6.sin6_addr, host, sizeof(host));
  return fmt::format("ipv6:%5B{}%5D:{}", host, ntohs(ipv6.sin6_port));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TcpListener>> TcpListener::Listen(const std::string& address,
                                                                 ConnectionGuard& guard) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error =
          ::getaddrinfo(host.c_str(), address.substr(colon + 1).c_str(), &hints, &found);
      error != 0) {
    return Unavailable("--listen {}: {}", address, ::gai_strerror(error));
  }
  std::vector<int> fds;
  uint16_t port = 0;
  int error = 0;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const int fd = ListenOn(*at, port);
    if (fd < 0) {
      error = errno;
      continue;
    }
    port = PortOf(fd);
    fds.push_back(fd);
  }
  ::freeaddrinfo(found);
  if (fds.empty()) {
    return Unavailable("--listen {}: {}; choose another port, or port 0 for a free one", address,
                       std::strerror(error));
  }
  return std::unique_ptr<TcpListener>(
      new TcpListener(fmt::format("{}:{}", address.substr(0, colon), port), std::move(fds), guard));
}

void TcpListener::Serve(Acceptor acceptor) {
  acceptor_ = std::move(acceptor);
  loop_.Start([this](int fd) { Accepted(fd); });
}

void TcpListener::Stop() { loop_.Stop(); }

void TcpListener::Accepted(int fd) {
  const std::string peer = PeerOf(fd);
  if (peer.empty() || !guard_.Admit(fd, peer)) {
    ::close(fd);
    return;
  }
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
  connection.fd = fd;
  acceptor_->HandleNewConnection(&connection);
}

}  // namespace mnemosyne::server
