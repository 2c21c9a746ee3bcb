#include "server/store/step_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/checksum.h"
#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/store/durable_file.h"

namespace mnemosyne::server {
namespace {

constexpr uint32_t kMagic = 0x474f4c4d;  // "MLOG"

struct RecordHeader {
  uint32_t magic = kMagic;
  uint32_t crc32c = 0;  // Of the length and the contents.
  uint64_t length = 0;
};
static_assert(sizeof(RecordHeader) == 16);

absl::Status WriteAll(int file, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return FileError("write of the log", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

bool ReadAll(int file, void* target, size_t size) {
  auto* at = static_cast<char*>(target);
  while (size > 0) {
    const ssize_t count = ::read(file, at, size);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    at += count;
    size -= static_cast<size_t>(count);
  }
  return true;
}

// Reads the record at `place` of a file of `size` bytes; false unless it is whole and undamaged.
bool ReadRecord(int file, uint64_t place, uint64_t size, std::vector<std::byte>& contents) {
  RecordHeader header;
  const uint64_t left = size - place;
  if (left < sizeof(header) || ::lseek(file, static_cast<off_t>(place), SEEK_SET) < 0 ||
      !ReadAll(file, &header, sizeof(header)) || header.magic != kMagic ||
      header.length > left - sizeof(header)) {
    return false;
  }
  contents.resize(header.length);
  if (!ReadAll(file, contents.data(), contents.size())) return false;
  const uint32_t crc = Crc32c(std::as_bytes(std::span(&header.length, 1)));
  return ExtendCrc32c(crc, contents) == header.crc32c;
}

// Whether an undamaged record begins at `start` or later.
bool RecordFollows(int file, uint64_t start, uint64_t size) {
  constexpr uint64_t kWindow = uint64_t{1} << 20;
  std::vector<char> window(kWindow);
  std::vector<std::byte> contents;
  std::array<char, sizeof(kMagic)> magic;
  std::memcpy(magic.data(), &kMagic, sizeof(kMagic));
  // Windows overlap by less than a magic number.
  for (uint64_t at = start; at + magic.size() <= size; at += kWindow - magic.size() + 1) {
    const uint64_t count = std::min(kWindow, size - at);
    if (::lseek(file, static_cast<off_t>(at), SEEK_SET) < 0 ||
        !ReadAll(file, window.data(), count)) {
      return false;
    }
    const std::string_view text(window.data(), count);
    const std::string_view wanted(magic.data(), magic.size());
    for (size_t hit = text.find(wanted); hit != text.npos; hit = text.find(wanted, hit + 1)) {
      if (ReadRecord(file, at + hit, size, contents)) return true;
    }
  }
  return false;
}

// Closes a file when it goes.
struct FileCloser {
  int file;
  ~FileCloser() { ::close(file); }
};

}  // namespace

absl::StatusOr<std::unique_ptr<StepLog>> StepLog::Open(const std::filesystem::path& path) {
  if (const int error = FAIL_POINT("log.create")) return FileError("create of the log", error);
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0) return FileError("create of the log", errno);
  std::unique_ptr<StepLog> log(new StepLog(file));
  struct stat info {};
  if (::fstat(file, &info) == 0) {
    MutexLock lock(&log->mutex_);
    log->byte_count_ = info.st_size;
  }
  MNEMO_RETURN_IF_ERROR(SyncFolder(path.parent_path(), "log.folder"));
  return log;
}

StepLog::~StepLog() { ::close(file_); }

absl::Status StepLog::Fail(const absl::Status& status) {
  MutexLock lock(&mutex_);
  if (broken_.ok()) broken_ = status;
  return broken_;
}

absl::Status StepLog::Append(std::span<const std::span<const std::byte>> pieces) {
  {
    MutexLock lock(&mutex_);
    if (!broken_.ok()) return broken_;
  }
  RecordHeader header;
  for (const auto& piece : pieces) header.length += piece.size();
  const auto length = static_cast<int64_t>(sizeof(header) + header.length);
  if (length > bound_.bytes_max - byte_count()) {
    return Fail(WithReason(
        ResourceExhausted("the log of steps is full: no snapshot could be taken to trim it"),
        "DISK_FULL"));
  }
  if (bound_.take != nullptr) {
    if (const absl::Status taken = bound_.take(length); !taken.ok()) return Fail(taken);
  }
  header.crc32c = Crc32c(std::as_bytes(std::span(&header.length, 1)));
  for (const auto& piece : pieces) header.crc32c = ExtendCrc32c(header.crc32c, piece);

  if (const int error = FAIL_POINT("log.header")) return Fail(FileError("write of the log", error));
  absl::Status status = WriteAll(file_, std::as_bytes(std::span(&header, 1)));
  for (const auto& piece : pieces) {
    if (const int error = FAIL_POINT("log.write")) status = FileError("write of the log", error);
    if (status.ok()) status = WriteAll(file_, piece);
  }
  if (!status.ok()) return Fail(status);
  FAIL_POINT("log.written");
  MutexLock lock(&mutex_);
  byte_count_ += length;
  return absl::OkStatus();
}

absl::Status StepLog::Sync() {
  {
    MutexLock lock(&mutex_);
    if (!broken_.ok()) return broken_;
  }
  if (const int error = FAIL_POINT("log.fsync")) return Fail(FileError("fsync of the log", error));
  if (::fdatasync(file_) != 0) return Fail(FileError("fsync of the log", errno));
  FAIL_POINT("log.synced");
  return absl::OkStatus();
}

int64_t StepLog::byte_count() const {
  MutexLock lock(&mutex_);
  return byte_count_;
}

absl::Status ReadStepLog(const std::filesystem::path& path,
                         const std::function<absl::Status(std::span<const std::byte>)>& visit) {
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return FileError("open of the log", errno);
  const FileCloser closer{file};
  struct stat info {};
  if (::fstat(file, &info) != 0) return FileError("open of the log", errno);
  const auto size = static_cast<uint64_t>(info.st_size);

  uint64_t place = 0;
  std::vector<std::byte> contents;
  while (place < size) {
    const bool good = ReadRecord(file, place, size, contents);
    if (!good) {
      const bool followed = RecordFollows(file, place + 1, size);
      if (::ftruncate(file, static_cast<off_t>(place)) != 0 || ::fdatasync(file) != 0) {
        return FileError("cutting of the log", errno);
      }
      if (followed) return DataLoss("a record of the log is damaged, and others followed it");
      return absl::OkStatus();
    }
    MNEMO_RETURN_IF_ERROR(visit(contents));
    place += sizeof(RecordHeader) + contents.size();
  }
  return absl::OkStatus();
}

}  // namespace mnemosyne::server
