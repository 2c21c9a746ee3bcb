// Messages of the Optimize stream: small ones made from a part, and those received.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message_lite.h"
#include "proto/codec/frame_reader.h"

namespace mnemosyne {

// A message that holds `part` under `field` and nothing else.
grpc::ByteBuffer PartMessage(uint32_t field, const google::protobuf::MessageLite& part);

// An error that only a faulty daemon or connection causes: Internal, reason PROTOCOL_VIOLATION.
absl::Status ProtocolViolation(std::string_view what);

// A received message, taken apart where it lies.
class ReceivedFrame {
 public:
  explicit ReceivedFrame(const grpc::ByteBuffer& message);
  ReceivedFrame(const ReceivedFrame&) = delete;
  ReceivedFrame& operator=(const ReceivedFrame&) = delete;

  // ProtocolViolation if the message is malformed; then it has no parts and no chunks.
  const absl::Status& status() const { return status_; }

  const std::vector<codec::ChunkView>& chunks() const { return frame_.chunks; }

  // Parses the part under `field`; false if there is none.
  bool GetPart(uint32_t field, google::protobuf::MessageLite& part) const;

 private:
  std::vector<grpc::Slice> memory_;
  std::vector<codec::Slice> slices_;
  codec::Frame frame_;
  absl::Status status_;
};

}  // namespace mnemosyne
