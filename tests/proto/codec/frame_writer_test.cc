#include "proto/codec/frame_writer.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "mnemosyne/v1/optimizer_service.pb.h"
#include "proto/codec/frame_reader.h"

namespace mnemosyne::codec {
namespace {

void AppendChunk(const ChunkHeader& header, std::string_view payload, std::string& out) {
  AppendChunkHeader(header, payload.size(), out);
  out.append(payload);
}

TEST(FrameWriterTest, ProtobufReadsWhatItWrites) {
  v1::StepBegin begin;
  begin.set_step(7);
  begin.add_learning_rate_factors(0.5);
  v1::StepEnd end;
  end.set_step(7);
  std::string bytes;

  AppendPart(2, begin.SerializeAsString(), bytes);
  AppendChunk({.parameter = 3, .cell = 500, .crc32c = 0xDEADBEEF}, "payload", bytes);
  AppendChunk({}, "x", bytes);
  AppendPart(4, end.SerializeAsString(), bytes);

  v1::OptimizeRequest request;
  ASSERT_TRUE(request.ParseFromString(bytes));
  EXPECT_EQ(request.begin().SerializeAsString(), begin.SerializeAsString());
  EXPECT_EQ(request.end().step(), 7);
  ASSERT_EQ(request.chunks_size(), 2);
  EXPECT_EQ(request.chunks(0).parameter(), 3);
  EXPECT_EQ(request.chunks(0).cell(), 500);
  EXPECT_EQ(request.chunks(0).crc32c(), 0xDEADBEEF);
  EXPECT_EQ(request.chunks(0).payload(), "payload");
  EXPECT_EQ(request.chunks(1).parameter(), 0);
  EXPECT_EQ(request.chunks(1).payload(), "x");
}

TEST(FrameWriterTest, WritesTheSameBytesAsProtobuf) {
  v1::OptimizeResponse response;
  response.mutable_opened()->set_epoch(2);
  v1::TensorChunk& chunk = *response.add_chunks();
  chunk.set_parameter(1 << 20);
  chunk.set_cell(129);
  chunk.set_decay(1e-3);
  chunk.set_scale(-0.25);
  chunk.set_crc32c(0);
  chunk.set_payload(std::string(1000, 'p'));
  response.mutable_done()->set_step(9);
  std::string bytes;

  AppendPart(1, response.opened().SerializeAsString(), bytes);
  AppendChunk({.parameter = 1 << 20, .cell = 129, .decay = 1e-3, .scale = -0.25, .crc32c = 0},
              chunk.payload(), bytes);
  AppendPart(4, response.done().SerializeAsString(), bytes);

  EXPECT_EQ(bytes, response.SerializeAsString());
}

TEST(FrameWriterTest, AnUnsetScaleReadsAsOneAndAZeroScaleStaysZero) {
  std::string bytes;
  AppendChunk({.scale = 1}, "a", bytes);
  AppendChunk({.scale = 0}, "b", bytes);

  v1::OptimizeResponse response;
  ASSERT_TRUE(response.ParseFromString(bytes));
  EXPECT_FALSE(response.chunks(0).has_scale());
  EXPECT_TRUE(response.chunks(1).has_scale());
  EXPECT_EQ(response.chunks(1).scale(), 0);
}

TEST(FrameWriterTest, TheHeaderTellsTheLengthOfAPayloadThatIsNotThereYet) {
  for (const size_t size : {size_t{0}, size_t{127}, size_t{128}, size_t{1} << 20}) {
    const std::string payload(size, 'z');
    std::string bytes;
    AppendChunk({.parameter = std::numeric_limits<int32_t>::max()}, payload, bytes);

    v1::OptimizeRequest request;
    ASSERT_TRUE(request.ParseFromString(bytes)) << size;
    EXPECT_EQ(request.chunks(0).payload().size(), size);
    EXPECT_EQ(request.chunks(0).parameter(), std::numeric_limits<int32_t>::max());
  }
}

}  // namespace
}  // namespace mnemosyne::codec
