// The inside of OptimizeStream.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "client/cpp/lease.h"
#include "client/cpp/raw_stream.h"
#include "client/cpp/replay_buffer.h"
#include "mnemosyne/credentials.h"
#include "mnemosyne/optimize_stream.h"
#include "mnemosyne/v1/optimize_stream.pb.h"
#include "mnemosyne/v1/optimizer_service.grpc.pb.h"
#include "proto/codec/chunk_grid.h"

namespace mnemosyne {

// The connection of a stream, its place in the session, and the thread of its heartbeats.
//
// A step holds `mutex_` from its beginning to its end, but for the waits between tries, in which
// `stepping_` keeps the thread of heartbeats away.
class OptimizeStream::Impl {
 public:
  // `element_counts` are those of the session's parameters.
  Impl(std::string target, Credentials credentials, std::string session, std::string token,
       std::vector<size_t> element_counts, StreamOptions options);
  ~Impl();

  // Opens the stream for the first time.
  absl::Status Open();

  absl::StatusOr<StepResult> Step(Tensors gradients, MutableTensors updates,
                                  const StepOptions& options);
  absl::StatusOr<StepResult> StepAndApply(Tensors gradients, MutableTensors parameters,
                                          const StepOptions& options);

  absl::StatusOr<int64_t> Snapshot(std::string_view pin);
  absl::StatusOr<v1::Session> UpdateSession(const v1::SessionSpec& spec,
                                            const std::vector<std::string>& paths);

  int64_t last_step() const;
  int64_t epoch() const;
  int64_t reopen_count() const;

 private:
  using Time = RawStream::Time;

  // One step, as its helpers need it.
  struct Job {
    int64_t step;
    Tensors gradients;
    MutableTensors updates;
    const StepOptions& options;
    Time deadline;
  };

  absl::Status Connect(Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Before reopening: Aborted with reason SUPERSEDED if somebody else has had the session since.
  absl::Status CheckNotSuperseded(Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Hear(const v1::StreamOpened& opened) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits before the next try; false if `deadline` comes first.
  bool WaitFor(std::chrono::milliseconds wait, Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<StepResult> TryUntilAnswered(const Job& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<StepResult> Try(const Job& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sends the steps before `before` that the daemon has lost.
  absl::Status SendLostSteps(int64_t before, Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits until the daemon stands at the last step of this stream, as far as is known; that step.
  absl::StatusOr<int64_t> Settle(Time deadline);
  absl::StatusOr<int64_t> SnapshotUntil(std::string_view pin, Time deadline);
  // A call beside the stream.
  using StubCall = std::function<grpc::Status(v1::OptimizerService::Stub&, grpc::ClientContext&)>;
  absl::Status Call(Time deadline, const StubCall& call);
  void TellEvents();
  // Sends a step once over the open stream.
  absl::StatusOr<StepResult> TryOnce(const Job& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Keeps a step as long as the daemon could lose it.
  void Keep(const Job& job, const StepResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Tell(StreamEvent::Kind kind, std::string message, int64_t first = 0, int64_t last = 0)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sends a step and reads its answer. `refused` tells an error that the stream survives.
  absl::StatusOr<StepResult> Exchange(const Job& job, Lease& lease, bool& refused)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<StepResult> ReadAnswer(const Job& job, bool& refused)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The error in the messages that came before a step was sent whole, if there is one.
  absl::Status EarlyError(bool& refused) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives a broken stream up; remembers what it must never be opened after.
  void Drop(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Time SilenceEnd(Time deadline) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void HeartbeatLoop();
  void KeepAlive() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string target_;
  const Credentials credentials_;
  const std::string session_;
  const std::string token_;
  const std::vector<size_t> element_counts_;
  const StreamOptions options_;
  const uint64_t stream_id_;  // Not 0.

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool stepping_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<grpc::Channel> channel_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<RawStream> stream_ ABSL_GUARDED_BY(mutex_);  // Null while broken.
  std::optional<codec::ChunkGrid> grid_ ABSL_GUARDED_BY(mutex_);
  absl::Status fatal_ ABSL_GUARDED_BY(mutex_);  // SUPERSEDED: the end of this stream.
  int64_t last_step_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t open_count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::chrono::seconds heartbeat_ ABSL_GUARDED_BY(mutex_){30};
  int64_t attempts_ ABSL_GUARDED_BY(mutex_) = 0;  // Openings that were tried.
  // Openings whose answer was lost: each may have advanced the session's epoch.
  int64_t blind_opens_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t daemon_step_ ABSL_GUARDED_BY(mutex_) = 0;  // The last that the daemon is known to have.
  bool keeps_sessions_ ABSL_GUARDED_BY(mutex_) = false;
  std::string durability_error_ ABSL_GUARDED_BY(mutex_);
  ReplayBuffer replay_ ABSL_GUARDED_BY(mutex_);
  std::vector<StreamEvent> events_ ABSL_GUARDED_BY(mutex_);  // Not told yet.

  std::vector<std::vector<float>> updates_;  // [parameters], of StepAndApply.

  std::thread heartbeats_;
};

}  // namespace mnemosyne
