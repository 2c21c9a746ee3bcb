// Who did what: a file of JSON lines, for the operator.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/security/caller.h"

namespace mnemosyne::server {

// Appends a line for each event: time, tenant, means, peer, action, session, outcome. Outcomes are
// OK or a reason. Lines hold no tokens, no labels and no values of tensors.
//
// What strangers can cause, lines of callers that were not identified, is bounded: 100 a minute;
// `suppressed` in the next line says how many are missing.
//
// Thread-safe. An event that cannot be written is logged once and dropped: a full disk stops no
// training.
class AuditLog {
 public:
  // Opens the file for appending, and makes it, for its owner alone, if it is not there. Without a
  // path nothing is written. FailedPrecondition if it cannot be opened.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(std::string path, const Clock& clock);
  ~AuditLog();

  // Opens the file by its name again, after a rotation.
  void Reopen();

  // An event of an identified caller. `session` may be empty.
  void Record(const Caller& caller, std::string_view peer, std::string_view action,
              std::string_view session, const absl::Status& outcome);

  // A caller that was not identified, or a connection that was refused.
  void RecordStranger(std::string_view peer, std::string_view action, const absl::Status& outcome);

 private:
  AuditLog(std::string path, const Clock& clock) : path_(std::move(path)), clock_(clock) {}

  absl::Status OpenFile() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Write(const std::string& line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  const Clock& clock_;
  Mutex mutex_;
  int fd_ ABSL_GUARDED_BY(mutex_) = -1;
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
  Clock::Monotonic minute_start_ ABSL_GUARDED_BY(mutex_);
  int64_t strangers_ ABSL_GUARDED_BY(mutex_) = 0;  // In this minute.
  int64_t suppressed_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mnemosyne::server
