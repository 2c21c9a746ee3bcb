// A stream without a network: a test, or a fuzzer, plays the client.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "mnemosyne/v1/optimizer_service.pb.h"
#include "server/rpc/optimize_conversation.h"
#include "tests/testing/notification.h"

namespace mnemosyne::server {

// Takes what a conversation writes, feeds it what the client sends, and watches the rules of
// StreamSink. Thread-safe.
class FakeSink final : public StreamSink {
 public:
  // How long is waited for what must come; reached only when it does not.
  static constexpr std::chrono::seconds kPatience{30};

  // Told what a conversation did against the rules, on whatever thread it did it; may end the
  // process.
  using Complain = void (*)(const std::string& what);

  FakeSink(std::shared_ptr<OptimizeConversation> conversation, Complain complain)
      : conversation_(std::move(conversation)), complain_(complain) {
    conversation_->Start(this);
  }

  // Returns once the conversation uses the sink no more.
  ~FakeSink() override {
    mnemosyne::testing::Notification closed;
    conversation_->OnClosed([&closed] { closed.Notify(); });
    closed.WaitForNotification();
  }

  // The client sends a message.
  void Send(const v1::OptimizeRequest& request) { SendBytes(request.SerializeAsString()); }

  void SendBytes(std::string bytes) {
    {
      MutexLock lock(&mutex_);
      inbox_.push_back(std::move(bytes));
    }
    Deliver();
  }

  // The client has nothing more to send.
  void CloseSending() {
    {
      MutexLock lock(&mutex_);
      closed_ = true;
    }
    Deliver();
  }

  // From now on writes stay in flight until Unblock.
  void Block() {
    MutexLock lock(&mutex_);
    blocked_ = true;
  }
  void Unblock() {
    bool in_flight = false;
    {
      MutexLock lock(&mutex_);
      blocked_ = false;
      in_flight = std::exchange(write_in_flight_, false);
    }
    if (in_flight) conversation_->OnWritten(true);
  }

  // The write in flight, if there is one, fails.
  void FailWrite() {
    bool in_flight = false;
    {
      MutexLock lock(&mutex_);
      in_flight = std::exchange(write_in_flight_, false);
    }
    if (in_flight) conversation_->OnWritten(false);
  }

  // The next message from the daemon; nothing, and a complaint, if none comes.
  v1::OptimizeResponse Receive() {
    MutexLock lock(&mutex_);
    const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !outbox_.empty(); };
    v1::OptimizeResponse response;
    if (!lock.AwaitFor(kPatience, ready)) {
      complain_("the daemon sent nothing; finished: " +
                (finished_ ? finished_->ToString() : std::string("no")));
      return response;
    }
    response = std::move(outbox_.front());
    outbox_.pop_front();
    return response;
  }

  // How the daemon ended the stream.
  absl::Status AwaitFinish() {
    MutexLock lock(&mutex_);
    const auto ready = [this]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return finished_.has_value(); };
    if (!lock.AwaitFor(kPatience, ready)) {
      complain_("the daemon did not end the stream");
      return absl::OkStatus();
    }
    return *finished_;
  }

  bool finished() {
    MutexLock lock(&mutex_);
    return finished_.has_value();
  }
  bool cancelled() {
    MutexLock lock(&mutex_);
    return cancelled_;
  }

  OptimizeConversation& conversation() { return *conversation_; }

 private:
  void Check(bool good, const char* what) const {
    if (!good) complain_(what);
  }

  void Read() override {
    {
      MutexLock lock(&mutex_);
      Check(!std::exchange(reading_, true), "two reads at once");
      Check(!finished_.has_value(), "a read after the end");
    }
    Deliver();
  }

  void Write(std::string message) override {
    v1::OptimizeResponse response;
    Check(response.ParseFromString(message), "a message that is none");
    {
      MutexLock lock(&mutex_);
      Check(!write_in_flight_, "two writes at once");
      Check(!finished_.has_value(), "a write after the end");
      outbox_.push_back(std::move(response));
      if (blocked_) {
        write_in_flight_ = true;
        return;
      }
    }
    conversation_->OnWritten(true);
  }

  void Finish(const absl::Status& status) override {
    MutexLock lock(&mutex_);
    Check(!finished_.has_value(), "finished twice");
    Check(!write_in_flight_, "finished during a write");
    finished_ = status;
  }

  void Cancel() override {
    MutexLock lock(&mutex_);
    cancelled_ = true;
  }

  // Answers the read that is outstanding, if there is something to answer it with.
  void Deliver() {
    std::optional<InboundMessage> message;
    {
      MutexLock lock(&mutex_);
      if (!reading_ || (inbox_.empty() && !closed_)) return;
      reading_ = false;
      if (!inbox_.empty()) {
        auto owner = std::make_shared<std::string>(std::move(inbox_.front()));
        inbox_.pop_front();
        message = InboundMessage{{std::as_bytes(std::span(*owner))}, owner};
      }
    }
    if (message) {
      conversation_->OnMessage(*std::move(message));
    } else {
      conversation_->OnReadsDone();
    }
  }

  const std::shared_ptr<OptimizeConversation> conversation_;
  const Complain complain_;
  Mutex mutex_;
  std::deque<std::string> inbox_ ABSL_GUARDED_BY(mutex_);
  std::deque<v1::OptimizeResponse> outbox_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> finished_ ABSL_GUARDED_BY(mutex_);
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool blocked_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mnemosyne::server
