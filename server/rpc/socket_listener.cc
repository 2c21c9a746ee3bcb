#include "server/rpc/socket_listener.h"

#include <grpcpp/server_posix.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

// gRPC names a connection that it was given by its file descriptor.
constexpr std::string_view kPeerPrefix = "fd:";

constexpr int kBacklog = 128;

}  // namespace

SocketListener::SocketListener(std::string path, int fd, const AccessPolicy& policy,
                               AuditLog& audit, ConnectionGuard& guard)
    : path_(std::move(path)), policy_(policy), audit_(audit), guard_(guard), loop_({fd}) {}

absl::StatusOr<std::unique_ptr<SocketListener>> SocketListener::Listen(const std::string& path,
                                                                       const AccessPolicy& policy,
                                                                       AuditLog& audit,
                                                                       ConnectionGuard& guard) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return Unavailable("--socket {}: the path is too long", path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  ::unlink(path.c_str());             // Left over from a daemon that is gone.
  const mode_t mask = ::umask(0177);  // Never open to others, not even for a moment.
  const bool bound = ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  ::umask(mask);
  constexpr mode_t kEverybody = 0666;
  if (!bound || (policy.HasUsers() && ::chmod(path.c_str(), kEverybody) != 0) ||
      ::listen(fd, kBacklog) != 0) {
    const int error = errno;
    ::close(fd);
    return Unavailable("--socket {}: {}", path, std::strerror(error));
  }
  return std::unique_ptr<SocketListener>(new SocketListener(path, fd, policy, audit, guard));
}

SocketListener::~SocketListener() { Stop(); }

void SocketListener::Serve(grpc::Server& server) {
  loop_.Start([this, &server](int fd) { Admit(fd, server); });
}

void SocketListener::Stop() {
  loop_.Stop();
  if (!std::exchange(stopped_, true)) ::unlink(path_.c_str());
}

void SocketListener::Admit(int fd, grpc::Server& server) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  const bool known = ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
  if (!known || !policy_.AdmitsUser(peer.uid)) {
    audit_.RecordStranger(fmt::format("uid:{}", peer.uid), "connect",
                          WithReason(absl::PermissionDeniedError(""), "USER_NOT_ADMITTED"));
    Log(spdlog::level::debug, "connection refused on the socket", {{"uid", peer.uid}});
    ::close(fd);
    return;
  }
  if (!guard_.Admit(fd, fmt::format("{}{}", kPeerPrefix, fd))) {
    ::close(fd);
    return;
  }
  {
    MutexLock lock(&mutex_);
    uids_[fd] = peer.uid;
  }
  grpc::AddInsecureChannelFromFd(&server, fd);
}

std::optional<uint32_t> SocketListener::UidOf(std::string_view peer) const {
  if (!peer.starts_with(kPeerPrefix)) return std::nullopt;
  peer.remove_prefix(kPeerPrefix.size());
  int fd = -1;
  const auto [end, error] = std::from_chars(peer.data(), peer.data() + peer.size(), fd);
  if (error != std::errc() || end != peer.data() + peer.size()) return std::nullopt;
  MutexLock lock(&mutex_);
  const auto found = uids_.find(fd);
  return found == uids_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace mnemosyne::server
