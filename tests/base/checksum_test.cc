#include "base/checksum.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string_view>
#include <vector>

namespace mnemosyne {
namespace {

std::span<const std::byte> Bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::vector<std::byte> Repeat(uint8_t byte, size_t count) {
  return std::vector<std::byte>(count, std::byte{byte});
}

// RFC 3720, appendix B.4.
TEST(ChecksumTest, KnowsTheVectorsOfItsSpecification) {
  std::vector<std::byte> ascending(32), descending(32);
  for (size_t i = 0; i < 32; ++i) {
    ascending[i] = static_cast<std::byte>(i);
    descending[i] = static_cast<std::byte>(31 - i);
  }
  EXPECT_EQ(Crc32c(Repeat(0, 32)), 0x8A9136AAU);
  EXPECT_EQ(Crc32c(Repeat(0xFF, 32)), 0x62A8AB43U);
  EXPECT_EQ(Crc32c(ascending), 0x46DD794EU);
  EXPECT_EQ(Crc32c(descending), 0x113FDB5CU);
  EXPECT_EQ(Crc32c(Bytes("123456789")), 0xE3069283U);
}

TEST(ChecksumTest, IsZeroForNothing) { EXPECT_EQ(Crc32c({}), 0U); }

TEST(ChecksumTest, GrowsPieceByPiece) {
  const std::string_view text = "the quick brown fox jumps over the lazy dog";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const uint32_t head = Crc32c(Bytes(text.substr(0, cut)));
    EXPECT_EQ(ExtendCrc32c(head, Bytes(text.substr(cut))), Crc32c(Bytes(text))) << cut;
  }
}

TEST(ChecksumTest, NoticesEveryFlippedBit) {
  std::vector<std::byte> bytes = Repeat(0x5A, 37);
  const uint32_t good = Crc32c(bytes);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_NE(Crc32c(bytes), good) << bit;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

TEST(FingerprintTest, TellsTensorsApart) {
  EXPECT_EQ(Fingerprint(Bytes("gradient")), Fingerprint(Bytes("gradient")));
  EXPECT_NE(Fingerprint(Bytes("gradient")), Fingerprint(Bytes("gradienu")));
  EXPECT_NE(Fingerprint(Repeat(0, 8)), Fingerprint(Repeat(0, 9)));
}

}  // namespace
}  // namespace mnemosyne
