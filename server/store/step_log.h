// The log of a session's steps after a snapshot: what a step was given, so that it can be taken
// again. A record is a magic number, the length and the CRC-32C of its contents, and the contents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// Appends records to one file. Append belongs to one thread; Sync may run on another meanwhile.
// Errors are those of FileError; after one, the log takes nothing more and says it again.
class StepLog {
 public:
  // Makes the file, or goes on at its end; it must not end in a torn record.
  static absl::StatusOr<std::unique_ptr<StepLog>> Open(const std::filesystem::path& path);

  ~StepLog();
  StepLog(const StepLog&) = delete;
  StepLog& operator=(const StepLog&) = delete;

  // Appends a record whose contents are the pieces one behind the other.
  absl::Status Append(std::span<const std::span<const std::byte>> pieces);

  // How far the file may grow. Beyond `bytes_max` Append fails with ResourceExhausted, reason
  // DISK_FULL; where `take` refuses a record's bytes, with its error.
  struct Bound {
    int64_t bytes_max = std::numeric_limits<int64_t>::max();
    std::function<absl::Status(int64_t bytes)> take = nullptr;  // May be null.
  };

  // Before the first Append.
  void BoundTo(Bound bound) { bound_ = std::move(bound); }
  const Bound& bound() const { return bound_; }

  // Makes all that was appended durable.
  absl::Status Sync();

  int64_t byte_count() const;

 private:
  explicit StepLog(int file) : file_(file) {}

  absl::Status Fail(const absl::Status& status);

  const int file_;
  Bound bound_;
  mutable Mutex mutex_;
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);
  int64_t byte_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Calls `visit` with each record in order until it fails or the log ends. A torn record at the end,
// which nobody was told of, is cut off. DataLoss where a damaged record had others behind it: those
// before it were visited, and the rest is cut off, since no step can follow on it.
absl::Status ReadStepLog(const std::filesystem::path& path,
                         const std::function<absl::Status(std::span<const std::byte>)>& visit);

}  // namespace mnemosyne::server
