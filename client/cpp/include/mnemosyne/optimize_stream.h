// A stream of steps on a session: gradients go in, updates come back.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/data_type.h"
#include "mnemosyne/retry_policy.h"
#include "mnemosyne/v1/session.pb.h"

namespace mnemosyne {

// The tensors of a step: one a parameter, flattened in row-major order, in the order of
// SessionSpec.parameters.
using Tensors = std::span<const std::span<const float>>;
using MutableTensors = std::span<const std::span<float>>;

// What became of a stream, beside its steps.
struct StreamEvent {
  enum class Kind {
    kReconnected,  // Another connection was opened.
    kResent,       // The daemon had lost steps and got them again.
    kLost,         // Steps are lost for good, and training goes on without them.
    kDurability,   // Steps cannot be kept safe for the moment, or can again.
  };

  Kind kind = Kind::kReconnected;
  std::string message;     // For people.
  int64_t first_step = 0;  // The steps it is about; 0 for none.
  int64_t last_step = 0;
};

struct StreamOptions {
  // How elements travel: float32, bfloat16 or float16. The caller's tensors are float32 always.
  DataType gradient_encoding = DataType::kFloat32;
  DataType update_encoding = DataType::kFloat32;
  // Goes on with this client's steps if the daemon lost some of them.
  bool accept_loss = false;
  // Puts CRC-32C checksums on all tensors, both ways.
  bool checksums = false;
  // How long a step goes on trying while the daemon is away or silent.
  std::chrono::milliseconds step_timeout{600'000};
  // How long the first opening goes on trying, and how long each later one waits for its answer.
  std::chrono::milliseconds open_timeout{20'000};
  // Waits between tries.
  RetryPolicy retry;
  // The gradients of steps that a crash of the daemon could lose are copied, up to so many bytes,
  // and sent again after it; 0 keeps none. A daemon that keeps no sessions, or makes every step
  // durable, needs none.
  size_t replay_bytes = size_t{256} << 20;
  // A folder to keep them in; empty is memory.
  std::filesystem::path replay_folder = {};
  // Told what happens to the stream beside its steps, on the thread that steps.
  std::function<void(const StreamEvent&)> on_event = {};
};

// What a step may carry besides gradients; docs/protocol.md says what each does.
struct StepOptions {
  // The step's number; 0 for the one after the last. The last one again gets the same answer.
  int64_t step = 0;
  std::optional<double> loss;
  std::vector<double> learning_rate_factors;  // One a group, or none.
  std::vector<double> learning_rates;         // One a group, or none.
  std::vector<int32_t> absent_parameters;     // They get no update; their gradients are not read.
  std::vector<float> parameter_rms;           // One a parameter, or none.
};

// What the guard of a learned optimizer has done since its state began.
struct GuardReport {
  double level = 0;           // How much it holds back now, in [0, 1].
  int64_t trips = 0;          // How often a loss set it off.
  int64_t capped_chunks = 0;  // Chunks of parameters whose update was capped.
};

struct StepResult {
  int64_t step = 0;
  double gradient_norm = 0;                 // Before clipping.
  double update_norm = 0;                   // Decay left out.
  double clip_factor = 1;                   // Of global clipping.
  int64_t non_finite_count = 0;             // Elements of gradients.
  std::vector<int32_t> skipped_parameters;  // Because of the NonFinitePolicy.
  std::vector<double> decays;               // [parameters] Weight decay to apply.
  int64_t last_durable_step = 0;            // The last one that survives a crash of the daemon.
  std::string durability_error;             // Why no later one does; empty while all is well.
  bool replayed = false;                    // The daemon had applied the step before.
  double receive_seconds = 0;               // In the daemon.
  double queue_seconds = 0;
  double compute_seconds = 0;
  std::optional<GuardReport> guard;  // Of an optimizer that has one.
};

// A stream that holds a session and steps it.
//
// A broken stream is opened anew inside Step, which sends the step again: it is applied once
// however often it is sent. If the daemon came back without the last steps, they are sent again
// first, from the copies that the stream keeps; where these do not reach, Step says
// FailedPrecondition with reason STATE_MISMATCH, or goes on if StreamOptions::accept_loss is set. A
// stream that lost its session to a newer one says ABORTED with reason
// SUPERSEDED from then on and is of no further use. While no step runs, a thread of the stream
// exchanges heartbeats with the daemon.
//
// Thread-safety: not thread-safe; one thread steps.
// Lifetime: may outlive the Client that opened it.
class OptimizeStream {
 public:
  ~OptimizeStream();
  OptimizeStream(const OptimizeStream&) = delete;
  OptimizeStream& operator=(const OptimizeStream&) = delete;

  // Runs a step: sends `gradients` and writes to `updates` what the caller adds to its parameters
  // after it has shrunk each by StepResult::decays: p <- (1 - decay) p + update. Updates of absent
  // parameters stay as they are. Large tensors are sent from where they lie, so that this returns
  // only when gRPC has let go of them.
  //
  // On an error `updates` is of no use. An error of the daemon (such as reason NON_FINITE) leaves
  // the session as before the step and the stream usable. Unavailable or DeadlineExceeded leaves
  // open whether the step was applied: the next call sends the same number again, and must have the
  // same gradients.
  absl::StatusOr<StepResult> Step(Tensors gradients, MutableTensors updates,
                                  const StepOptions& options = {});

  // Runs a step and applies its updates to `parameters`, all of them or, on an error, none. Keeps
  // an array of the model's size.
  absl::StatusOr<StepResult> StepAndApply(Tensors gradients, MutableTensors parameters,
                                          const StepOptions& options = {});

  // Takes a snapshot at the last step of this stream, as Client::SnapshotSession does; steps that
  // the daemon lost meanwhile are sent again first. Returns its step. Errors as Step and
  // Client::SnapshotSession.
  absl::StatusOr<int64_t> Snapshot(std::string_view pin = {});

  // Changes values of the session from the next step on, as Client::UpdateSession does. Steps that
  // a crash of the daemon could lose are made durable first: sent again later, they would be taken
  // with the new values. Where that fails, StreamOptions::on_event is told. Errors as Step and
  // Client::UpdateSession.
  absl::StatusOr<v1::Session> UpdateSession(const v1::SessionSpec& spec,
                                            const std::vector<std::string>& paths);

  // The last step whose updates this client has, or that was applied when the stream was opened.
  int64_t last_step() const;

  // The holder's number, which grows with each opening.
  int64_t epoch() const;

  // How often the stream was opened anew.
  int64_t reopen_count() const;

 private:
  friend class Client;
  class Impl;
  explicit OptimizeStream(std::unique_ptr<Impl> impl);

  const std::unique_ptr<Impl> impl_;
};

}  // namespace mnemosyne
