// The folder in which the daemon keeps what must survive it. One daemon at a time uses it.
//
//   lock                                      held by the daemon
//   models/<sha256>.safetensors               every model that a kept session names
//   sessions/<id>/<generation>-<step>.safetensors   snapshots; the highest generation counts
//   sessions/<id>/pin-<name>.safetensors      snapshots that a client pinned
//   sessions/<id>/<generation>.log            the steps after that generation
//   sessions/<id>/epoch                       the session's last holder
//   expired/<id>/                             sessions that expired, as they were
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mnemosyne::server {

// One snapshot in the folder of a session.
struct Generation {
  int64_t number = 0;  // From 1.
  int64_t step = 0;
  std::filesystem::path path;
};

// The folder of one session. Cheap to make; every call looks at the disk. Thread-safe as the disk
// is: one writer, any readers.
class SessionFolder {
 public:
  explicit SessionFolder(std::filesystem::path path) : path_(std::move(path)) {}

  // Makes the folder, durably. Errors as FileError.
  absl::Status Make() const;

  // The snapshots, newest first.
  std::vector<Generation> Generations() const;

  // Where the snapshot of `step` after all others goes.
  Generation Next(int64_t step) const;

  // Takes a snapshot that cannot be read out of Generations, without removing it.
  void SetAside(const Generation& generation) const;

  // Removes all but the newest `kept` snapshots, and the logs that lead on from none of them.
  void Prune(size_t kept) const;

  // Where the steps after a generation are logged; the generations that have a log, in order.
  std::filesystem::path LogOf(int64_t generation) const;
  std::vector<int64_t> Logs() const;

  // Removes the logs of generations before this one.
  void RemoveLogsBefore(int64_t generation) const;

  // Pins the newest snapshot under `name`, in place of one of that name. InvalidArgument
  // (INVALID_PIN) for a name that is not made of 1 to 64 letters, digits and .-_; ResourceExhausted
  // (TOO_MANY_PINS) beyond kPinsMax.
  absl::Status Pin(std::string_view name) const;

  // The snapshot that is pinned under `name`. NotFound (PIN_NOT_FOUND) tells those there are.
  absl::StatusOr<std::filesystem::path> FindPin(std::string_view name) const;

  // Makes a pinned snapshot, which is of `step`, the newest generation again.
  absl::StatusOr<Generation> Rewind(std::string_view name, int64_t step) const;

  absl::Status Unpin(std::string_view name) const;
  std::vector<std::string> Pins() const;

  // The last epoch that was stored; 0 if none was. Store is durable when it returns.
  int64_t ReadEpoch() const;
  absl::Status StoreEpoch(int64_t epoch) const;

  // The bytes of all files.
  int64_t ByteCount() const;

  // Removes the folder.
  void Remove() const;

  const std::filesystem::path& path() const { return path_; }

  static constexpr size_t kPinsMax = 16;

 private:
  absl::StatusOr<std::filesystem::path> PinPath(std::string_view name) const;

  std::filesystem::path path_;
};

// The whole state folder, locked as long as this object lives. Thread-safe.
class StateFolder {
 public:
  // Makes the folder if it is not there, locks it, and removes what was left unfinished.
  // FailedPrecondition if another daemon holds it or it cannot be written; the message says which.
  static absl::StatusOr<std::unique_ptr<StateFolder>> Open(const std::filesystem::path& path);

  ~StateFolder();
  StateFolder(const StateFolder&) = delete;
  StateFolder& operator=(const StateFolder&) = delete;

  // The folder of the session `id`, whether it is there or not.
  SessionFolder Session(std::string_view id) const;

  // The ids of all sessions that have a folder, sorted.
  std::vector<std::string> Sessions() const;

  // Moves a session out of the way, to expired/; keeps the last `kept` of those.
  absl::Status Expire(std::string_view id, size_t kept) const;

  // Keeps a model's file under its hash, durably; does nothing if it is there.
  absl::Status KeepModel(std::string_view hash, std::span<const std::byte> file) const;

  // Where the model with that hash is kept, if it is.
  std::optional<std::filesystem::path> FindModel(std::string_view hash) const;

  // The bytes of all sessions' files.
  int64_t ByteCount() const;

  const std::filesystem::path& path() const { return path_; }

 private:
  StateFolder(std::filesystem::path path, int lock) : path_(std::move(path)), lock_(lock) {}

  const std::filesystem::path path_;
  const int lock_;
};

}  // namespace mnemosyne::server
