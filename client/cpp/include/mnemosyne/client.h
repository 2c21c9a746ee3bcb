// The C++ client of the daemon: its optimizers, sessions, single steps and states. Its values are
// the messages of mnemosyne.v1, whose comments say what each field means. For a training loop open
// a stream; see optimize_stream.h.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mnemosyne/credentials.h"
#include "mnemosyne/optimize_stream.h"
#include "mnemosyne/retry_policy.h"
#include "mnemosyne/v1/optimizer_service.pb.h"

namespace mnemosyne {

// Where a daemon listens unless told otherwise.
inline constexpr std::string_view kDefaultAddress = "127.0.0.1:7717";

struct ClientOptions {
  // How the daemon and this client know each other.
  Credentials credentials = {};
  // How long Connect waits for the daemon to answer.
  std::chrono::milliseconds connect_timeout{10'000};
  // How long a call may take, its retries included. Export and import of a state have no such
  // bound, but end when the connection is lost.
  std::chrono::milliseconds call_timeout{60'000};
  // Waits between the tries of a call while the daemon is away.
  RetryPolicy retry;
};

// What the calls on a session need: its name, `sessions/...`, and its secret.
struct SessionKey {
  std::string name;
  std::string token;
};

// A session as its maker gets it.
struct CreatedSession {
  v1::Session session;
  std::string token;

  SessionKey key() const { return {session.name(), token}; }
};

// A connection to one daemon.
//
// Thread-safety: thread-safe.
// Lifetime: streams that it opened may outlive it.
// Errors: those of the daemon, with the reason and the values that base/error.h reads; Unavailable
// if the daemon cannot be reached. Calls that found no daemon are tried again until call_timeout.
class Client {
 public:
  // Connects to `address`: `host:port`, `host` (port 7717), or `unix:/path/of/socket`. Unavailable
  // if nothing answers within connect_timeout, InvalidArgument for an access token that would
  // travel in plaintext beyond this machine.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(std::string_view address = kDefaultAddress,
                                                         const ClientOptions& options = {});

  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // The optimizers that a session can name.
  absl::StatusOr<std::vector<v1::Optimizer>> ListOptimizers();

  // Lets the daemon read its folders of models again; returns what changed. Sessions keep the
  // weights that they were made with.
  absl::StatusOr<v1::ReloadModelsResponse> ReloadModels();

  // Makes a session. A repeated call with the same `request_id` returns the same session; an empty
  // one is replaced by a random one, under which the retries of this call make one session.
  absl::StatusOr<CreatedSession> CreateSession(const v1::SessionSpec& spec,
                                               std::string_view request_id = {});

  absl::StatusOr<v1::Session> GetSession(std::string_view name);

  // All sessions, without their parameters, in order of creation.
  absl::StatusOr<std::vector<v1::Session>> ListSessions();

  // Changes the fields of the session's spec that `paths` names, such as `hyperparameters` or
  // `schedule`, to their values in `spec`, from the next step on.
  absl::StatusOr<v1::Session> UpdateSession(const SessionKey& key, const v1::SessionSpec& spec,
                                            const std::vector<std::string>& paths);

  // Takes a snapshot of the session now, for a daemon with a state folder, and pins it under `pin`
  // if that is not empty: RewindSession finds it until another one is pinned under that name.
  // Returns its step. FailedPrecondition with reason NOT_AT_STEP if `step` is not 0 and the session
  // stands elsewhere; a stream's own Snapshot() takes care of that.
  absl::StatusOr<int64_t> SnapshotSession(const SessionKey& key, std::string_view pin = {},
                                          int64_t step = 0);

  // Takes the session back to the snapshot that is pinned under `pin`: for a trainer that went back
  // to its checkpoint. Streams on the session are superseded. NotFound with reason PIN_NOT_FOUND.
  absl::StatusOr<v1::Session> RewindSession(const SessionKey& key, std::string_view pin);

  // Asks the daemon to end in order, as SIGTERM does: for admins, or on its socket.
  absl::Status Drain();

  // Ends a session and frees its memory. Callers on the daemon's socket need no token.
  absl::Status DeleteSession(const SessionKey& key);

  // Opens a stream of steps on a session. It takes the session over from any other stream.
  absl::StatusOr<std::unique_ptr<OptimizeStream>> OpenStream(const SessionKey& key,
                                                             const StreamOptions& options = {});

  // Runs one step in one message: for models of at most a few MiB. `session` is what CreateSession
  // or GetSession returned. Otherwise as OptimizeStream::Step, but `options.step` must be set, and
  // every call takes the session over.
  absl::StatusOr<StepResult> Step(const v1::Session& session, std::string_view token,
                                  Tensors gradients, MutableTensors updates,
                                  const StepOptions& options);

  // Writes the state of a session between two steps to `target`: its StateParts, each after its
  // length as a varint (protobuf's delimited messages). On an error `target` holds a part of it.
  absl::Status ExportState(const SessionKey& key, std::ostream& target);

  // The same to a file, which appears only when it is complete.
  absl::Status ExportStateToFile(const SessionKey& key, const std::filesystem::path& path);

  // Replaces the state of a session by one that ExportState wrote, also from another daemon. The
  // session goes on at the step after the state's; streams on it are superseded.
  absl::StatusOr<v1::Session> ImportState(const SessionKey& key, std::istream& source);
  absl::StatusOr<v1::Session> ImportStateFromFile(const SessionKey& key,
                                                  const std::filesystem::path& path);

  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo();

  // Ok if the daemon says SERVING by the standard protocol grpc.health.v1; Unavailable with reason
  // NOT_SERVING, or the error of the call, if not.
  absl::Status CheckHealth();

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);

  const std::unique_ptr<Impl> impl_;
};

}  // namespace mnemosyne
