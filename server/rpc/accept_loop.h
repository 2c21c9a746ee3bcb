// Accepts connections on a thread of its own, until it is told to stop.
#pragma once

#include <functional>
#include <thread>
#include <vector>

namespace mnemosyne::server {

// Start, Stop and the destructor belong to one thread.
class AcceptLoop {
 public:
  // Takes over listening sockets that do not block.
  explicit AcceptLoop(std::vector<int> listen_fds);
  ~AcceptLoop();

  AcceptLoop(const AcceptLoop&) = delete;
  AcceptLoop& operator=(const AcceptLoop&) = delete;

  // Calls `accepted` with each new connection, which does not block and is then its own.
  void Start(std::function<void(int fd)> accepted);

  // Accepts no more, and closes the listening sockets; returns once no call of `accepted` is under
  // way.
  void Stop();

 private:
  void AcceptUntilStopped();
  bool AcceptOne(int listen_fd);

  std::vector<int> listen_fds_;
  const int stop_fd_;  // Readable once the loop is to stop.
  std::function<void(int fd)> accepted_;
  std::thread thread_;
};

}  // namespace mnemosyne::server
