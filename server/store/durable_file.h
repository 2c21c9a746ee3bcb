// A file that is there whole or not at all, whatever dies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mnemosyne::server {

// How the names of files end that are being written; whoever opens a folder may remove them.
inline constexpr char kUnfinishedSuffix[] = ".new";

// The error of a failed system call: ResourceExhausted with reason DISK_FULL where there is no room
// (ENOSPC, EDQUOT), else Internal with reason IO_ERROR. The message names the operation and not the
// path, which clients must not see.
absl::Status FileError(std::string_view operation, int error);

// Makes the entries of `folder` durable. `point` is the fail point that is passed.
absl::Status SyncFolder(const std::filesystem::path& folder, std::string_view point);

// Writes beside its place, and takes its place when it is complete and on the disk: write, fsync,
// rename, fsync of the folder. Not thread-safe. Errors are those of FileError.
class DurableFile {
 public:
  // Starts to write the file that will be at `path`, readable by its owner alone. `kind` is the
  // prefix of the fail points: `<kind>.create`, `.write`, `.fsync`, `.rename`, `.folder`, `.done`.
  static absl::StatusOr<std::unique_ptr<DurableFile>> Create(std::filesystem::path path,
                                                             std::string kind);

  // Removes what is unfinished.
  ~DurableFile();

  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  // Appends. What has been written goes to the disk from time to time, so that the last fsync is
  // short and never floods it.
  absl::Status Write(std::span<const std::byte> bytes);

  // Puts the file in its place, durably. Nothing may follow.
  absl::Status Commit();

  uint64_t size() const { return size_; }

 private:
  DurableFile(std::filesystem::path path, std::string kind, int file);

  const std::filesystem::path path_;
  const std::filesystem::path unfinished_;
  const std::string kind_;
  int file_;
  uint64_t size_ = 0;
  uint64_t synced_ = 0;
  bool committed_ = false;
};

}  // namespace mnemosyne::server
