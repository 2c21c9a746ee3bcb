#include "base/data_type.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace mnemosyne {
namespace {

// A 16-bit type by its definition: sign, exponent, fraction.
struct Format {
  DataType type;
  int exponent_bits;
  int fraction_bits;
};

constexpr Format kFormats[] = {{DataType::kFloat16, 5, 10}, {DataType::kBFloat16, 8, 7}};

// What `bits` stand for.
double Meaning(const Format& format, uint16_t bits) {
  const int fraction = bits & ((1 << format.fraction_bits) - 1);
  const int exponent = (bits >> format.fraction_bits) & ((1 << format.exponent_bits) - 1);
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == (1 << format.exponent_bits) - 1) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  const int implicit = exponent == 0 ? 0 : 1 << format.fraction_bits;
  return sign *
         std::ldexp(implicit + fraction, std::max(exponent, 1) - bias - format.fraction_bits);
}

// The bits of positive infinity.
uint16_t InfinityBits(const Format& format) {
  return static_cast<uint16_t>(((1 << format.exponent_bits) - 1) << format.fraction_bits);
}

uint16_t Encode(DataType type, float value) {
  uint16_t bits = 0;
  EncodeElements(type, &value, reinterpret_cast<std::byte*>(&bits), 1);
  return bits;
}

float Decode(DataType type, uint16_t bits) {
  float value = 0;
  DecodeElements(type, reinterpret_cast<const std::byte*>(&bits), &value, 1);
  return value;
}

TEST(DataTypeTest, DecodesEvery16BitNumber) {
  for (const Format& format : kFormats) {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      const double expected = Meaning(format, static_cast<uint16_t>(bits));
      const float actual = Decode(format.type, static_cast<uint16_t>(bits));
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(actual)) << bits;
      } else {
        ASSERT_EQ(static_cast<double>(actual), expected) << bits;
      }
      ASSERT_EQ(std::signbit(actual), (bits & 0x8000) != 0) << bits;
    }
  }
}

TEST(DataTypeTest, EncodesEvery16BitNumberAsItself) {
  for (const Format& format : kFormats) {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      const float value = Decode(format.type, static_cast<uint16_t>(bits));
      const uint16_t actual = Encode(format.type, value);
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(Meaning(format, actual))) << bits;
      } else {
        ASSERT_EQ(actual, bits);
      }
    }
  }
}

TEST(DataTypeTest, RoundsToNearestEven) {
  for (const Format& format : kFormats) {
    for (uint16_t bits = 0; bits < InfinityBits(format) - 1; ++bits) {
      const auto next = static_cast<uint16_t>(bits + 1);
      const uint16_t even = bits % 2 == 0 ? bits : next;
      // Half-way points need one more bit of fraction than the format: they are exact in float32,
      // but for those below its own smallest numbers.
      const double middle = (Meaning(format, bits) + Meaning(format, next)) / 2;
      const auto half_way = static_cast<float>(middle);
      ASSERT_EQ(static_cast<double>(half_way), middle);
      const float below = std::nextafter(half_way, 0.0F);
      const float above = std::nextafter(half_way, std::numeric_limits<float>::infinity());
      for (const float sign : {1.0F, -1.0F}) {
        const uint16_t sign_bit = sign < 0 ? 0x8000 : 0;
        ASSERT_EQ(Encode(format.type, sign * half_way), sign_bit | even) << half_way;
        ASSERT_EQ(Encode(format.type, sign * below), sign_bit | bits) << below;
        ASSERT_EQ(Encode(format.type, sign * above), sign_bit | next) << above;
      }
    }
  }
}

TEST(DataTypeTest, RoundsWhatIsTooLargeToInfinity) {
  constexpr float kMax = std::numeric_limits<float>::max();
  EXPECT_EQ(Encode(DataType::kFloat16, 65504), 0x7BFF);
  EXPECT_EQ(Encode(DataType::kFloat16, std::nextafter(65520.0F, 0.0F)), 0x7BFF);
  EXPECT_EQ(Encode(DataType::kFloat16, 65520), 0x7C00);
  EXPECT_EQ(Encode(DataType::kFloat16, -kMax), 0xFC00);
  EXPECT_EQ(Encode(DataType::kBFloat16, kMax), 0x7F80);
  EXPECT_EQ(Encode(DataType::kBFloat16, -kMax), 0xFF80);
}

TEST(DataTypeTest, KeepsNanAndItsSign) {
  for (const Format& format : kFormats) {
    // The second has its only fraction bits where rounding would lose them.
    for (const uint32_t nan : {0x7FC00000U, 0x7F800001U, 0x7FFFFFFFU}) {
      for (const uint32_t sign : {0U, 0x80000000U}) {
        const uint16_t bits = Encode(format.type, std::bit_cast<float>(nan | sign));
        EXPECT_TRUE(std::isnan(Meaning(format, bits)));
        EXPECT_EQ(bits & 0x8000U, sign >> 16);
      }
    }
  }
}

TEST(DataTypeTest, ConvertsWithinTheSameMemory) {
  for (const DataType type : {DataType::kFloat32, DataType::kBFloat16, DataType::kFloat16}) {
    for (const size_t count : std::initializer_list<size_t>{1, 255, 256, 257, 10'001}) {
      std::vector<float> expected(count);
      for (size_t i = 0; i < count; ++i) expected[i] = static_cast<float>(i % 200) - 100;
      std::vector<float> memory = expected;
      auto* const bytes = reinterpret_cast<std::byte*>(memory.data());
      const size_t encoded_size = count * ElementSize(type);

      EncodeElements(type, memory.data(), bytes, count);
      std::byte* const source = bytes + count * sizeof(float) - encoded_size;
      std::memmove(source, bytes, encoded_size);
      DecodeElements(type, source, memory.data(), count);

      EXPECT_EQ(memory, expected) << DataTypeName(type) << ", " << count;
    }
  }
}

TEST(DataTypeTest, MindsNoAlignment) {
  for (const DataType type : {DataType::kFloat32, DataType::kBFloat16, DataType::kFloat16}) {
    const std::vector<float> values = {1, -2, 0.5F};
    std::vector<std::byte> bytes(1 + values.size() * ElementSize(type));
    std::vector<float> decoded(values.size());

    EncodeElements(type, values.data(), bytes.data() + 1, values.size());
    DecodeElements(type, bytes.data() + 1, decoded.data(), values.size());

    EXPECT_EQ(decoded, values);
  }
}

TEST(DataTypeTest, KnowsItsTypes) {
  EXPECT_EQ(ElementSize(DataType::kFloat32), 4U);
  EXPECT_EQ(ElementSize(DataType::kBFloat16), 2U);
  EXPECT_EQ(ElementSize(DataType::kFloat16), 2U);
  EXPECT_EQ(ElementSize(DataType::kFloat64), 8U);
  EXPECT_EQ(DataTypeName(DataType::kBFloat16), "bfloat16");
  EXPECT_TRUE(IsWireType(DataType::kFloat16));
  EXPECT_FALSE(IsWireType(DataType::kFloat64));
}

TEST(DataTypeDeathTest, AbortsOnATypeThatDoesNotTravel) {
  float value = 0;
  std::byte bytes[8] = {};
  EXPECT_DEATH(EncodeElements(DataType::kFloat64, &value, bytes, 1), "check failed");
  EXPECT_DEATH(DecodeElements(DataType::kFloat64, bytes, &value, 1), "check failed");
}

}  // namespace
}  // namespace mnemosyne
