// A bidirectional call whose messages are bytes.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"

namespace mnemosyne {

// Messages that are kept until they are read.
inline constexpr size_t kInboxMax = 16;

// Drives one call on a completion queue of its own, from the thread that calls it: a message that
// arrives wakes its reader and no other thread.
//
// A read is always outstanding, so that the other end can send while this one does; what arrives is
// kept until it is read, and no more is taken beyond `inbox_max` messages.
//
// Thread-safety: not thread-safe, but different threads may use it one after the other.
class RawStream {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // Prepares the call of `method`, such as `/package.Service/Method`; the first Write starts it.
  RawStream(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
            size_t inbox_max = kInboxMax, const std::map<std::string, std::string>& metadata = {});

  // Cancels the call if it has not ended.
  ~RawStream();

  RawStream(const RawStream&) = delete;
  RawStream& operator=(const RawStream&) = delete;

  // Sends a message, and returns when gRPC takes the next one. The status of the call, or
  // Unavailable where that is OK, if it has ended; DeadlineExceeded if it takes too long, after
  // which only Cancel makes sense.
  absl::Status Write(const grpc::ByteBuffer& message, Time deadline);

  // Waits for the next message. Errors as Write; after DeadlineExceeded it may be called again.
  absl::Status Read(grpc::ByteBuffer& message, Time deadline);

  // Whether a message waits to be read. Takes in what has arrived and does not wait.
  bool HasMessage();

  // Whether the call has ended; messages may be left to read. Takes in what has arrived.
  bool ended();

  // The status of a call that has ended, as Write returns it.
  absl::Status EndStatus();

  // Half-closes the call and waits for its end.
  void Close(Time deadline);

  // Ends the call now. Returns when gRPC has dropped the messages that it was to send, unless a
  // socket holds some.
  void Cancel();

  // Lets gRPC work until `deadline` or until something has happened.
  bool Pump(Time deadline);

 private:
  enum Tag : intptr_t { kRead = 1, kWritten = 2, kClosed = 3, kFinished = 4 };

  void StartRead();
  void StartFinish();

  const size_t inbox_max_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;

  grpc::ByteBuffer incoming_;
  std::deque<grpc::ByteBuffer> inbox_;
  grpc::Status status_;
  size_t operations_ = 0;  // Tags that the queue will yet return.
  bool reading_ = false;
  bool writing_ = false;
  bool write_ok_ = true;
  bool read_ok_ = true;
  bool closing_ = false;  // Half-closed.
  bool finishing_ = false;
  bool finished_ = false;
};

}  // namespace mnemosyne
