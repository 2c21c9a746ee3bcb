#include "server/security/small_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace mnemosyne::server {

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t bytes_max,
                                          std::string_view option) {
  // Without O_NONBLOCK a pipe in the file's place would hold the daemon up.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return FailedPrecondition("{}: cannot open: {}", option, std::strerror(errno));
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return FailedPrecondition("{}: is no regular file", option);
  }
  std::string bytes(bytes_max + 1, '\0');
  size_t size = 0;
  ssize_t got = 0;
  while (size < bytes.size() && (got = ::read(fd, bytes.data() + size, bytes.size() - size)) > 0) {
    size += static_cast<size_t>(got);
  }
  const int error = errno;
  ::close(fd);
  if (got < 0) return FailedPrecondition("{}: cannot read: {}", option, std::strerror(error));
  if (size > bytes_max) {
    return FailedPrecondition("{}: has more than {} bytes, which is the most", option, bytes_max);
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace mnemosyne::server
