#include "server/listen_check.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::server {
namespace {

// A file descriptor, closed with this object.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::Status CheckFolder(const std::filesystem::path& path, std::string_view option) {
  const std::filesystem::path folder =
      path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    return FailedPrecondition("{} {}: the folder {} does not exist; make it first", option,
                              path.string(), folder.string());
  }
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    return FailedPrecondition("{} {}: the folder {} cannot be written: {}", option, path.string(),
                              folder.string(), std::strerror(errno));
  }
  return absl::OkStatus();
}

struct AddressesFreed {
  void operator()(addrinfo* addresses) const { ::freeaddrinfo(addresses); }
};
using Addresses = std::unique_ptr<addrinfo, AddressesFreed>;

// What HOST:PORT leads to; at least one.
absl::StatusOr<Addresses> Resolve(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), address.substr(colon + 1).c_str(), &hints, &found);
  if (error != 0) return InvalidArgument("--listen {}: {}", address, ::gai_strerror(error));
  return Addresses(found);
}

bool IsLoopback(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    sockaddr_in ipv4{};
    std::memcpy(&ipv4, &address, sizeof(ipv4));
    constexpr uint32_t kLoopbackNet = 127;
    return ntohl(ipv4.sin_addr.s_addr) >> 24 == kLoopbackNet;
  }
  if (address.sa_family != AF_INET6) return false;
  sockaddr_in6 ipv6{};
  std::memcpy(&ipv6, &address, sizeof(ipv6));
  return IN6_IS_ADDR_LOOPBACK(&ipv6.sin6_addr) != 0;
}

}  // namespace

absl::Status CheckTcpAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size()) {
    return InvalidArgument("--listen {}: expected HOST:PORT, such as 127.0.0.1:7717", address);
  }
  const std::string port = address.substr(colon + 1);
  const bool numeric = port.find_first_not_of("0123456789") == std::string::npos;
  if (!numeric || port.size() > 5 || std::stoi(port) > 65'535) {
    return InvalidArgument("--listen {}: the port is a number from 0 to 65535", address);
  }
  MNEMO_ASSIGN_OR_RETURN(const Addresses found, Resolve(address));
  const Descriptor probe(::socket(found->ai_family, found->ai_socktype, found->ai_protocol));
  const int on = 1;
  ::setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(probe.get(), found->ai_addr, found->ai_addrlen) != 0) {
    return Unavailable("--listen {}: {}; choose another port, or port 0 for a free one", address,
                       std::strerror(errno));
  }
  return absl::OkStatus();
}

absl::Status CheckPlaintextAddress(const std::string& address) {
  MNEMO_ASSIGN_OR_RETURN(const Addresses found, Resolve(address));
  for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
    if (!IsLoopback(*at->ai_addr)) {
      return FailedPrecondition(
          "--listen {}: without TLS only loopback is served; give --tls-certificate and --tls-key, "
          "or say --allow-plaintext if the network is yours alone",
          address);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSocketPath(const std::string& path) {
  sockaddr_un address{};
  if (path.size() >= sizeof(address.sun_path)) {
    return InvalidArgument("--socket {}: the path has {} bytes, the most is {}", path, path.size(),
                           sizeof(address.sun_path) - 1);
  }
  MNEMO_RETURN_IF_ERROR(CheckFolder(path, "--socket"));
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return absl::OkStatus();
  if (!S_ISSOCK(info.st_mode)) {
    return FailedPrecondition("--socket {}: there is a file that is no socket; choose another path",
                              path);
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const Descriptor probe(::socket(AF_UNIX, SOCK_STREAM, 0));
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return Unavailable("--socket {}: another daemon listens there; stop it, or choose another path",
                       path);
  }
  return absl::OkStatus();  // Left over from a daemon that is gone; gRPC replaces it.
}

absl::Status CheckWritableFile(const std::string& path, std::string_view option) {
  return CheckFolder(path, option);
}

}  // namespace mnemosyne::server
