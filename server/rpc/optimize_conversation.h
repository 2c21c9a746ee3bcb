// One Optimize stream's protocol, apart from gRPC: reads gradients, hands steps to the executor,
// writes updates. The only code that knows the order of messages.
//
//   kOpening --open--> kTaking --turn--> kIdle <------------------------------.
//                                          | begin                            |
//                                          v                                  |
//                                       kWaiting --turn--> kReceiving --end--> kComputing
//                                                             | error            |
//                                          kIdle, discarding <'                  v
//                                          kIdle <------------- done --- kSending
//
// Any state goes to kFinished by an error, an eviction, a drain, or the client's leaving.
//
// Back-pressure: at most one read is outstanding. While a step waits, is computed or is sent, one
// message is read ahead and held; the next read starts once it has been taken. A client that writes
// a whole step before it reads is served, since a step is read to its end whatever was written.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "mnemosyne/v1/optimizer_service.pb.h"
#include "proto/codec/frame_reader.h"
#include "server/rpc/strand.h"
#include "server/rpc/stream_owner.h"
#include "server/rpc/stream_registry.h"
#include "server/session/pending_step.h"
#include "server/session/session_store.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {

// The newest revision of the protocol that this daemon speaks.
inline constexpr int32_t kProtocolRevision = 1;

// What a stream needs from its transport. Called only by the conversation, one call at a time.
class StreamSink {
 public:
  virtual ~StreamSink() = default;

  // Starts to read a message; answered by OnMessage or OnReadsDone.
  virtual void Read() = 0;

  // Starts to write a message; answered by OnWritten.
  virtual void Write(std::string message) = 0;

  // Ends the stream; no call follows. Answered by OnClosed.
  virtual void Finish(const absl::Status& status) = 0;

  // Breaks off what is outstanding.
  virtual void Cancel() = 0;
};

// A message that came: its pieces, and what keeps them in memory.
struct InboundMessage {
  std::vector<codec::Slice> slices;
  std::shared_ptr<const void> owner;
};

// Bounds and times of streams.
struct StreamLimits {
  int64_t message_bytes_max = 4 << 20;
  size_t payload_bytes = 1 << 20;  // Of the updates in one message.
  int32_t heartbeat_seconds = 20;
  int32_t step_timeout_seconds = 120;  // Without a message, in a started step.
  int32_t goodbye_seconds = 5;         // For a last write to a client that must go.
  int32_t linger_seconds = 1;          // For a client to close its side once the stream has ended.
  int32_t idle_seconds = 3600;         // Between two steps.
};

// Thread-safety: the On... functions may be called from any thread; they are put in order.
// Lifetime: shared; the sink must live until OnClosed has called `closed`.
class OptimizeConversation final : public Watched,
                                   public std::enable_shared_from_this<OptimizeConversation> {
 public:
  OptimizeConversation(SessionStore& store, StreamOwner owner, const StreamLimits& limits,
                       const Clock& clock);

  // Starts with the first read.
  void Start(StreamSink* sink);

  void OnMessage(InboundMessage message);
  void OnReadsDone();  // No message follows: the client is done, or gone.
  void OnWritten(bool ok);
  void OnCancelled();  // The client is gone.
  void OnTick() override;
  void OnDrain() override;

  // The stream is over. Calls `closed` once nothing uses the sink any more.
  void OnClosed(std::function<void()> closed);

 private:
  enum class State {
    kOpening,
    kTaking,
    kIdle,
    kWaiting,
    kReceiving,
    kComputing,
    kSending,
    kFinished
  };

  // A message on its way through the states. Parts are taken out as they are dealt with.
  struct Current {
    InboundMessage message;
    codec::Frame frame;
    std::optional<v1::OpenStream> open;
    std::optional<v1::StepBegin> begin;
    std::optional<v1::StepEnd> end;
  };

  static absl::StatusOr<Current> Parse(InboundMessage message);

  // Runs `event` in the strand.
  void Post(std::function<void()> event);

  // Deals with the current message as far as the state allows, then reads the next one.
  void Proceed();
  absl::Status TakeMessage();
  absl::Status Open(const v1::OpenStream& open);
  absl::Status TryOpen(const v1::OpenStream& open);
  absl::Status Begin(const v1::StepBegin& begin);
  absl::Status End(const v1::StepEnd& end);
  void TurnToOpen(std::unique_ptr<Turnstile::Turn> turn);
  void TurnToStep(std::unique_ptr<Turnstile::Turn> turn);
  void StepRan(std::unique_ptr<PendingStep> step, const absl::Status& status);

  // Asks for the session's turn; `ready` runs in the strand.
  absl::Status AskTurn(void (OptimizeConversation::*ready)(std::unique_ptr<Turnstile::Turn>));

  // Drops the step and tells the client why; the stream goes on.
  void RefuseStep(const absl::Status& status);

  // Logs a refusal, at most once a second; the next line tells how many were left out.
  void LogRefusal(const absl::Status& status);

  // Ends the stream: at once, or when the write in flight is done.
  void Finish(const absl::Status& status);

  void Tick();
  void Send(std::string message);
  void WriteNext();

  SessionStore& store_;
  const StreamOwner owner_;
  const StreamLimits limits_;
  const Clock& clock_;
  Strand strand_;

  // The rest is touched only in the strand.
  StreamSink* sink_ = nullptr;
  State state_ = State::kOpening;
  std::shared_ptr<Session> session_;
  int64_t epoch_ = 0;
  DataType gradient_encoding_ = DataType::kFloat32;
  DataType update_encoding_ = DataType::kFloat32;
  bool checksums_ = false;
  bool accepts_loss_ = false;
  int32_t revision_ = kProtocolRevision;

  std::optional<Current> current_;
  std::optional<StepRequest> asked_;   // Begun, waiting for its turn.
  std::unique_ptr<PendingStep> step_;  // In kReceiving and kSending.
  int64_t step_number_ = 0;            // Of the step that was begun last.
  bool discarding_ = false;            // What is left of a refused step is passed over.

  bool reading_ = false;
  bool reads_done_ = false;
  bool writing_ = false;
  bool draining_ = false;
  std::deque<std::string> outbox_;       // Small messages, ahead of updates.
  std::optional<absl::Status> goodbye_;  // To finish with once the write in flight is done.
  Clock::Monotonic finish_time_;
  std::optional<Clock::Monotonic> refusal_logged_;
  int64_t refusals_unlogged_ = 0;
  Clock::Monotonic last_progress_;  // When the client last sent more than a heartbeat.
  Clock::Monotonic last_write_;
};

}  // namespace mnemosyne::server
