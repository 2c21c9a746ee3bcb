#include "proto/codec/frame_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "google/protobuf/unknown_field_set.h"
#include "mnemosyne/v1/optimizer_service.pb.h"
#include "proto/codec/frame_writer.h"
#include "tests/proto/codec/slices.h"

namespace mnemosyne::codec {
namespace {

// A step in one message, with each field of a chunk in use.
v1::OptimizeRequest Example() {
  v1::OptimizeRequest request;
  request.mutable_begin()->set_step(300);
  request.mutable_begin()->set_loss(1.5);
  request.mutable_begin()->add_absent_parameters(4);
  for (int i = 0; i < 3; ++i) {
    v1::TensorChunk& chunk = *request.add_chunks();
    chunk.set_parameter(i);
    chunk.set_cell(i * 1000);
    chunk.set_decay(0.25 * i);
    if (i == 1) chunk.set_scale(-3);
    if (i == 2) chunk.set_crc32c(0xFFFFFFFF);
    chunk.set_payload(std::string(static_cast<size_t>(20 * i), static_cast<char>('a' + i)));
  }
  request.mutable_end()->set_step(300);
  return request;
}

void ExpectSameChunk(const ChunkView& actual, const v1::TensorChunk& expected) {
  EXPECT_EQ(actual.parameter, expected.parameter());
  EXPECT_EQ(actual.cell, expected.cell());
  EXPECT_TRUE(actual.decay == expected.decay() || std::isnan(expected.decay()));
  const double scale = expected.has_scale() ? expected.scale() : 1;
  EXPECT_TRUE(actual.scale == scale || std::isnan(scale));
  EXPECT_EQ(actual.crc32c.has_value(), expected.has_crc32c());
  EXPECT_EQ(actual.crc32c.value_or(0), expected.crc32c());
  EXPECT_EQ(Text(actual.payload), expected.payload());
}

void ExpectSameFrame(const Frame& actual, const v1::OptimizeRequest& expected) {
  ASSERT_EQ(actual.chunks.size(), static_cast<size_t>(expected.chunks_size()));
  for (int i = 0; i < expected.chunks_size(); ++i) {
    ExpectSameChunk(actual.chunks[static_cast<size_t>(i)], expected.chunks(i));
  }
  v1::OptimizeRequest parts;
  for (const FramePart& part : actual.parts) {
    std::string bytes;
    AppendPart(part.field, part.bytes, bytes);
    EXPECT_TRUE(parts.MergeFromString(bytes));
  }
  v1::OptimizeRequest expected_parts = expected;
  expected_parts.clear_chunks();
  EXPECT_EQ(parts.SerializeAsString(), expected_parts.SerializeAsString());
}

void ExpectMalformed(std::string_view bytes) {
  const auto slices = Cut(bytes, 3);
  const auto frame = ReadFrame(slices);
  ASSERT_FALSE(frame.ok());
  EXPECT_EQ(frame.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(frame.status()), "PROTOCOL_VIOLATION");
}

TEST(FrameReaderTest, ReadsWhatProtobufWrites) {
  const v1::OptimizeRequest request = Example();
  const std::string bytes = request.SerializeAsString();
  const auto slices = Cut(bytes, bytes.size());

  const auto frame = ReadFrame(slices);

  ASSERT_TRUE(frame.ok()) << frame.status();
  ExpectSameFrame(*frame, request);
}

TEST(FrameReaderTest, ReadsAMessageInPiecesOfAnySize) {
  const v1::OptimizeRequest request = Example();
  const std::string bytes = request.SerializeAsString();
  for (size_t size = 1; size <= bytes.size(); ++size) {
    const auto slices = Cut(bytes, size);

    const auto frame = ReadFrame(slices);

    ASSERT_TRUE(frame.ok()) << frame.status();
    ExpectSameFrame(*frame, request);
  }
}

TEST(FrameReaderTest, ReadsAnEmptyMessage) {
  const auto frame = ReadFrame({});

  ASSERT_TRUE(frame.ok());
  EXPECT_TRUE(frame->parts.empty());
  EXPECT_TRUE(frame->chunks.empty());
}

TEST(FrameReaderTest, PutsPartsInTheOrderOfTheirNumbers) {
  std::string bytes;
  AppendPart(5, "e", bytes);
  AppendPart(1, "a", bytes);
  AppendPart(4, "d", bytes);
  const auto slices = Cut(bytes, 2);

  const auto frame = ReadFrame(slices);

  ASSERT_TRUE(frame.ok());
  ASSERT_EQ(frame->parts.size(), 3);
  EXPECT_EQ(frame->parts[0].bytes, "a");
  EXPECT_EQ(frame->parts[1].bytes, "d");
  EXPECT_EQ(frame->parts[2].bytes, "e");
}

TEST(FrameReaderTest, MergesPartsOfTheSameNumberAsProtobufDoes) {
  v1::StepBegin first;
  first.set_step(1);
  first.add_learning_rates(0.5);
  v1::StepBegin second;
  second.set_step(2);
  second.add_learning_rates(0.25);
  std::string bytes;
  AppendPart(2, first.SerializeAsString(), bytes);
  AppendPart(2, second.SerializeAsString(), bytes);
  v1::OptimizeRequest request;
  ASSERT_TRUE(request.ParseFromString(bytes));
  const auto slices = Cut(bytes, 2);

  const auto frame = ReadFrame(slices);

  ASSERT_TRUE(frame.ok());
  ExpectSameFrame(*frame, request);
}

TEST(FrameReaderTest, KeepsChunksInTheirOrderAmongParts) {
  std::string bytes;
  AppendChunkHeader({.parameter = 2}, 0, bytes);
  AppendPart(4, "end", bytes);
  AppendChunkHeader({.parameter = 1}, 0, bytes);
  const auto slices = Cut(bytes, 4);

  const auto frame = ReadFrame(slices);

  ASSERT_TRUE(frame.ok());
  ASSERT_EQ(frame->chunks.size(), 2);
  EXPECT_EQ(frame->chunks[0].parameter, 2);
  EXPECT_EQ(frame->chunks[1].parameter, 1);
}

TEST(FrameReaderTest, PassesOverUnknownFieldsOfEveryWireType) {
  v1::OptimizeRequest request = Example();
  const auto add_unknown = [](google::protobuf::UnknownFieldSet& fields) {
    fields.AddVarint(100, std::numeric_limits<uint64_t>::max());
    fields.AddFixed32(101, 5);
    fields.AddFixed64(102, 6);
    fields.AddLengthDelimited(536'870'911, "the largest field number");
  };
  add_unknown(*request.GetReflection()->MutableUnknownFields(&request));
  v1::TensorChunk& chunk = *request.mutable_chunks(1);
  add_unknown(*chunk.GetReflection()->MutableUnknownFields(&chunk));
  const std::string bytes = request.SerializeAsString();
  const auto slices = Cut(bytes, 7);

  const auto frame = ReadFrame(slices);

  ASSERT_TRUE(frame.ok()) << frame.status();
  ExpectSameFrame(*frame, Example());
}

TEST(FrameReaderTest, PassesOverAKnownFieldOfAnotherWireType) {
  // Field 3 as a varint and, in a chunk, the payload as a varint: what an old reader makes of a
  // field that got a new type.
  const std::string bytes("\x18\x05\x1A\x02\x78\x07", 6);
  v1::OptimizeRequest request;
  ASSERT_TRUE(request.ParseFromString(bytes));
  const auto slices = Cut(bytes, 1);

  const auto frame = ReadFrame(slices);

  ASSERT_TRUE(frame.ok());
  ASSERT_EQ(frame->chunks.size(), 1);
  EXPECT_EQ(frame->chunks[0].payload.remaining(), 0);
}

TEST(FrameReaderTest, ReadsFieldsOfAChunkInAnyOrderAndTakesTheLastOfEach) {
  v1::TensorChunk head;
  head.set_payload("old");
  head.set_cell(1);
  v1::TensorChunk tail;
  tail.set_cell(2);
  tail.set_parameter(3);
  tail.set_payload("new");
  std::string bytes;
  AppendPart(3, head.SerializeAsString() + tail.SerializeAsString(), bytes);
  const auto slices = Cut(bytes, 1);

  const auto frame = ReadFrame(slices);

  ASSERT_TRUE(frame.ok());
  ASSERT_EQ(frame->chunks.size(), 1);
  EXPECT_EQ(frame->chunks[0].cell, 2);
  EXPECT_EQ(frame->chunks[0].parameter, 3);
  EXPECT_EQ(Text(frame->chunks[0].payload), "new");
}

TEST(FrameReaderTest, ReadsNegativeNumbersAsProtobufWritesThem) {
  v1::OptimizeRequest request;
  request.add_chunks()->set_parameter(-1);
  request.mutable_chunks(0)->set_cell(std::numeric_limits<int32_t>::min());
  const std::string bytes = request.SerializeAsString();
  const auto slices = Cut(bytes, 1);

  const auto frame = ReadFrame(slices);

  ASSERT_TRUE(frame.ok());
  ExpectSameFrame(*frame, request);
}

TEST(FrameReaderTest, AgreesWithProtobufOnAMessageCutAtEveryByte) {
  const std::string bytes = Example().SerializeAsString();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::string_view prefix = std::string_view(bytes).substr(0, size);
    const auto slices = Cut(prefix, 5);
    v1::OptimizeRequest expected;
    const bool valid = expected.ParseFromArray(prefix.data(), static_cast<int>(size));

    const auto frame = ReadFrame(slices);

    EXPECT_EQ(frame.ok(), valid) << size;
    if (frame.ok()) ExpectSameFrame(*frame, expected);
  }
}

TEST(FrameReaderTest, AgreesWithProtobufOnWhateverProtobufAccepts) {
  std::mt19937 random(20);
  const std::string original = Example().SerializeAsString();
  int accepted = 0;
  for (int round = 0; round < 50'000; ++round) {
    std::string bytes = original;
    for (int changes = 0; changes < 1 + round % 3; ++changes) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    v1::OptimizeRequest expected;
    const bool valid = expected.ParseFromString(bytes);
    const auto slices = CutAtRandom(bytes, random);

    const auto frame = ReadFrame(slices);

    if (!valid) continue;
    ++accepted;
    ASSERT_TRUE(frame.ok()) << frame.status();
    ASSERT_EQ(frame->chunks.size(), static_cast<size_t>(expected.chunks_size()));
    for (int i = 0; i < expected.chunks_size(); ++i) {
      ExpectSameChunk(frame->chunks[static_cast<size_t>(i)], expected.chunks(i));
    }
  }
  EXPECT_GT(accepted, 1'000);
}

TEST(FrameReaderTest, RefusesLengthsBeyondTheMessage) {
  const std::string max_64 = std::string(9, '\xFF') + '\x01';
  ExpectMalformed("\x1A" + max_64 + "abc");                           // A chunk of 2^64 - 1 bytes.
  ExpectMalformed("\x12" + max_64);                                   // A part of that size.
  ExpectMalformed("\x1A\x0C\x7A" + max_64 + "a");                     // A payload of that size.
  ExpectMalformed(std::string("\x1A\xFF\xFF\xFF\xFF\x07", 6) + "a");  // 2 GiB.
  ExpectMalformed("\x1A\x02\x7A\x01");                                // One byte too many.
}

TEST(FrameReaderTest, APayloadCannotReachBeyondItsChunk) {
  // The chunk has 2 bytes, its payload claims 3, which the message would have.
  ExpectMalformed("\x1A\x02\x7A\x03xyz");
}

TEST(FrameReaderTest, RefusesTagsThatAreNone) {
  ExpectMalformed(std::string("\x00", 1));                  // Field 0.
  ExpectMalformed("\x1C");                                  // The end of a group.
  ExpectMalformed("\x1E");                                  // Wire type 6.
  ExpectMalformed(std::string("\x80\x80\x80\x80\x10", 5));  // A field number beyond 29 bits.
  ExpectMalformed(std::string(11, '\xFF'));
}

TEST(FrameReaderTest, TheErrorOfAMessageDoesNotRepeatItsContents) {
  const std::string bytes = "\x1A\x7Fsecret";
  const auto slices = Cut(bytes, bytes.size());

  EXPECT_THAT(std::string(ReadFrame(slices).status().message()),
              ::testing::Not(::testing::HasSubstr("secret")));
}

}  // namespace
}  // namespace mnemosyne::codec
