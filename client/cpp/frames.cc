#include "client/cpp/frames.h"

#include <string>
#include <utility>

#include "base/error.h"
#include "proto/codec/frame_writer.h"

namespace mnemosyne {

grpc::ByteBuffer PartMessage(uint32_t field, const google::protobuf::MessageLite& part) {
  std::string bytes;
  codec::AppendPart(field, part.SerializeAsString(), bytes);
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

absl::Status ProtocolViolation(std::string_view what) {
  return WithReason(Internal("the daemon broke the protocol: {}", what), "PROTOCOL_VIOLATION");
}

ReceivedFrame::ReceivedFrame(const grpc::ByteBuffer& message) {
  if (!message.Dump(&memory_).ok()) {
    status_ = ProtocolViolation("a message cannot be decompressed");
    return;
  }
  slices_.reserve(memory_.size());
  for (const grpc::Slice& slice : memory_) {
    slices_.push_back(std::as_bytes(std::span(slice.begin(), slice.size())));
  }
  auto frame = codec::ReadFrame(slices_);
  if (frame.ok()) {
    frame_ = *std::move(frame);
  } else {
    status_ = ProtocolViolation(ErrorMessage(frame.status()));
  }
}

bool ReceivedFrame::GetPart(uint32_t field, google::protobuf::MessageLite& part) const {
  for (const auto& candidate : frame_.parts) {
    if (candidate.field == field) return part.ParseFromString(candidate.bytes);
  }
  return false;
}

}  // namespace mnemosyne
