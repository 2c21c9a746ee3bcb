#include "server/rpc/accept_loop.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

namespace mnemosyne::server {
namespace {

// Waits a little where accepting fails because there are too many open files.
constexpr int kPauseMs = 100;

}  // namespace

AcceptLoop::AcceptLoop(std::vector<int> listen_fds)
    : listen_fds_(std::move(listen_fds)), stop_fd_(::eventfd(0, EFD_CLOEXEC)) {}

AcceptLoop::~AcceptLoop() {
  Stop();
  ::close(stop_fd_);
}

void AcceptLoop::Start(std::function<void(int fd)> accepted) {
  accepted_ = std::move(accepted);
  thread_ = std::thread([this] { AcceptUntilStopped(); });
}

void AcceptLoop::Stop() {
  const uint64_t one = 1;
  if (::write(stop_fd_, &one, sizeof(one)) < 0) return;  // Its count is full: it has been told.
  if (thread_.joinable()) thread_.join();
  for (const int fd : std::exchange(listen_fds_, {})) ::close(fd);
}

void AcceptLoop::AcceptUntilStopped() {
  std::vector<pollfd> watched = {{.fd = stop_fd_, .events = POLLIN, .revents = 0}};
  for (const int fd : listen_fds_) watched.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  while (true) {
    if (::poll(watched.data(), watched.size(), -1) < 0 && errno != EINTR) return;
    if (watched[0].revents != 0) return;
    for (size_t i = 1; i < watched.size(); ++i) {
      if (watched[i].revents != 0 && !AcceptOne(watched[i].fd)) {
        ::poll(watched.data(), 1, kPauseMs);
      }
    }
  }
}

// False if the machine cannot have more connections for the moment.
bool AcceptLoop::AcceptOne(int listen_fd) {
  const int fd = ::accept4(listen_fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) accepted_(fd);
  return fd >= 0 || errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
}

}  // namespace mnemosyne::server
