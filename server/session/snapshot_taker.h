// Takes a snapshot of a session: copies its state at a step boundary, then writes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "server/session/session.h"
#include "server/session/step_executor.h"
#include "server/store/state_folder.h"

namespace mnemosyne::server {

// What a snapshot cost, in seconds.
struct SnapshotReport {
  Generation generation;
  int64_t byte_count = 0;
  double held_seconds = 0;   // The session's steps waited.
  double total_seconds = 0;  // From the turn until it was durable.
};

// Writes what makes the session again as it began, without a state: its first generation. Errors
// are those of FileError.
absl::Status WriteFirstGeneration(const Session& session, const SessionFolder& folder);

// Memory into which a state is copied while its session waits. It is touched when it is made, so
// that copying is all that happens while steps wait. Not thread-safe.
class CaptureBuffer {
 public:
  // Holds up to `bytes_max` bytes of a state of `state_bytes`.
  CaptureBuffer(int64_t state_bytes, int64_t bytes_max);
  ~CaptureBuffer();
  CaptureBuffer(const CaptureBuffer&) = delete;
  CaptureBuffer& operator=(const CaptureBuffer&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Writes a snapshot in the session's `turn`, which ends as soon as what is left of the state fits
// into `buffer`: at once, if all of it does. The device is asked for a few megabytes at a time, so
// that steps of other sessions go on. A session whose steps are logged goes on in another log.
//
// Not on the executor's thread. Errors are those of FileError; nothing of the session has changed.
absl::StatusOr<SnapshotReport> TakeSnapshot(const std::shared_ptr<Session>& session,
                                            std::unique_ptr<Turnstile::Turn> turn,
                                            const SessionFolder& folder, CaptureBuffer& buffer);

}  // namespace mnemosyne::server
