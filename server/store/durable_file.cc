#include "server/store/durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"

namespace mnemosyne::server {
namespace {

// Bytes after which what was written is sent to the disk.
constexpr uint64_t kSyncEveryBytes = uint64_t{64} << 20;

}  // namespace

absl::Status FileError(std::string_view operation, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    return WithReason(ResourceExhausted("{}: no room in the state folder", operation), "DISK_FULL");
  }
  return WithReason(Internal("{}: {}", operation, std::strerror(error)), "IO_ERROR");
}

absl::Status SyncFolder(const std::filesystem::path& folder,
                        [[maybe_unused]] std::string_view point) {
  if (const int error = FAIL_POINT(point)) return FileError("fsync of a folder", error);
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return FileError("open of a folder", errno);
  const int result = ::fsync(file);
  const int error = errno;
  ::close(file);
  return result == 0 ? absl::OkStatus() : FileError("fsync of a folder", error);
}

DurableFile::DurableFile(std::filesystem::path path, std::string kind, int file)
    : path_(std::move(path)),
      unfinished_(path_.string() + kUnfinishedSuffix),
      kind_(std::move(kind)),
      file_(file) {}

DurableFile::~DurableFile() {
  if (file_ >= 0) ::close(file_);
  if (!committed_) ::unlink(unfinished_.c_str());
}

absl::StatusOr<std::unique_ptr<DurableFile>> DurableFile::Create(std::filesystem::path path,
                                                                 std::string kind) {
  if (const int error = FAIL_POINT(kind + ".create")) return FileError("create", error);
  const std::string unfinished = path.string() + kUnfinishedSuffix;
  const int file = ::open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return FileError("create", errno);
  return std::unique_ptr<DurableFile>(new DurableFile(std::move(path), std::move(kind), file));
}

absl::Status DurableFile::Write(std::span<const std::byte> bytes) {
  if (const int error = FAIL_POINT(kind_ + ".write")) return FileError("write", error);
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return FileError("write", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
    size_ += static_cast<uint64_t>(written);
  }
  if (size_ - synced_ >= kSyncEveryBytes) {
    synced_ = size_;
    if (::fdatasync(file_) != 0) return FileError("fsync", errno);
  }
  return absl::OkStatus();
}

absl::Status DurableFile::Commit() {
  if (const int error = FAIL_POINT(kind_ + ".fsync")) return FileError("fsync", error);
  if (::fsync(file_) != 0) return FileError("fsync", errno);
  const int closed = ::close(std::exchange(file_, -1));
  if (closed != 0) return FileError("close", errno);
  if (const int error = FAIL_POINT(kind_ + ".rename")) return FileError("rename", error);
  if (::rename(unfinished_.c_str(), path_.c_str()) != 0) return FileError("rename", errno);
  committed_ = true;
  MNEMO_RETURN_IF_ERROR(SyncFolder(path_.parent_path(), kind_ + ".folder"));
  FAIL_POINT(kind_ + ".done");
  return absl::OkStatus();
}

}  // namespace mnemosyne::server
