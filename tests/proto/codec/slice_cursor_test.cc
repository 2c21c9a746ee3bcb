#include "proto/codec/slice_cursor.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <string>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "tests/proto/codec/slices.h"

namespace mnemosyne::codec {
namespace {

std::string Varint(uint64_t value) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream(&stream).WriteVarint64(value);
  return bytes;
}

TEST(SliceCursorTest, ReadsVarintsAsProtobufWritesThem) {
  for (const uint64_t value :
       {uint64_t{0}, uint64_t{1}, uint64_t{127}, uint64_t{128}, uint64_t{300}, uint64_t{1} << 32,
        uint64_t{1} << 63, std::numeric_limits<uint64_t>::max()}) {
    const std::string bytes = Varint(value);
    const auto slices = Cut(bytes, 1);
    SliceCursor cursor(slices);

    EXPECT_EQ(cursor.ReadVarint(), value);
    EXPECT_EQ(cursor.remaining(), 0);
  }
}

TEST(SliceCursorTest, RefusesAVarintThatIsCutShort) {
  const std::string bytes = Varint(uint64_t{1} << 40);
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto slices = Cut(std::string_view(bytes).substr(0, size), 2);

    EXPECT_FALSE(SliceCursor(slices).ReadVarint().has_value()) << size;
  }
}

TEST(SliceCursorTest, RefusesAVarintBeyond64Bits) {
  const std::string eleven_bytes(11, '\xFF');
  const std::string bit_64 = std::string(9, '\xFF') + '\x02';

  EXPECT_FALSE(SliceCursor(Cut(eleven_bytes, 20)).ReadVarint().has_value());
  EXPECT_FALSE(SliceCursor(Cut(bit_64, 20)).ReadVarint().has_value());
}

TEST(SliceCursorTest, ReadsFixedNumbersAcrossPieces) {
  const std::string bytes("\x78\x56\x34\x12\xEF\xCD\xAB\x90\x78\x56\x34\x12", 12);
  for (size_t size = 1; size <= bytes.size(); ++size) {
    const auto slices = Cut(bytes, size);
    SliceCursor cursor(slices);

    EXPECT_EQ(cursor.ReadFixed32(), 0x12345678U);
    EXPECT_EQ(cursor.ReadFixed64(), 0x1234567890ABCDEFU);
    EXPECT_FALSE(cursor.ReadFixed32().has_value());
  }
}

TEST(SliceCursorTest, TakesAPartAndGoesOnBehindIt) {
  const auto slices = Cut("headbodytail", 5);
  SliceCursor cursor(slices);

  ASSERT_TRUE(cursor.Skip(4));
  const auto body = cursor.Take(4);

  ASSERT_TRUE(body.has_value());
  EXPECT_EQ(Text(*body), "body");
  EXPECT_EQ(Text(cursor), "tail");
}

TEST(SliceCursorTest, APartEndsWhereItWasCut) {
  const auto slices = Cut("abcdef", 6);
  SliceCursor part = *SliceCursor(slices).Take(2);
  std::array<std::byte, 3> target;

  EXPECT_FALSE(part.Read(target.data(), 3));
  EXPECT_FALSE(part.Skip(3));
  EXPECT_FALSE(part.Take(3).has_value());
}

TEST(SliceCursorTest, RefusesMoreThanThereIsHoweverMuchIsAsked) {
  const auto slices = Cut("abc", 1);
  for (const size_t size : {size_t{4}, std::numeric_limits<size_t>::max()}) {
    EXPECT_FALSE(SliceCursor(slices).Skip(size));
    EXPECT_FALSE(SliceCursor(slices).Take(size).has_value());
  }
}

TEST(SliceCursorTest, TakesNothingFromNothing) {
  SliceCursor empty;

  EXPECT_EQ(empty.remaining(), 0);
  EXPECT_TRUE(empty.Skip(0));
  EXPECT_TRUE(empty.Take(0).has_value());
  EXPECT_FALSE(empty.ReadVarint().has_value());
}

}  // namespace
}  // namespace mnemosyne::codec
