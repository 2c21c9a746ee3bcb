#include "kernels/cuda/flt_numbers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <vector>

#include "base/data_type.h"

namespace mnemosyne::kernels::cuda {
namespace {

TEST(FltNumbersTest, DecodesAndEncodesAllSixteenBitNumbersAsTheHostDoes) {
  for (const auto& [type, wire] : {std::pair{FltType::kBFloat16, DataType::kBFloat16},
                                   {FltType::kFloat16, DataType::kFloat16}}) {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      const std::vector<uint16_t> half = {static_cast<uint16_t>(bits), 0};
      float expected = 0;
      DecodeElements(wire, reinterpret_cast<const std::byte*>(half.data()), &expected, 1);
      const float actual = ReadElement(type, half.data(), 0);
      if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(actual));
        continue;
      }
      ASSERT_EQ(actual, expected);
      // Numbers around it, and halfway to the next.
      for (const float number : {expected, std::nextafter(expected, 1e38F), expected * 1.001F,
                                 expected * (1 + 0x1p-9F), expected * (1 + 0x1p-12F)}) {
        uint16_t rounded = 0;
        std::vector<uint16_t> encoded(2);
        EncodeElements(wire, &number, reinterpret_cast<std::byte*>(&rounded), 1);
        WriteElement(type, encoded.data(), 0, number);
        ASSERT_EQ(encoded[0], rounded) << number;
      }
    }
  }
}

TEST(FltNumbersTest, TellsNumbersFromWhatIsNone) {
  EXPECT_TRUE(IsFinite(0));
  EXPECT_TRUE(IsFinite(-std::numeric_limits<float>::max()));
  EXPECT_FALSE(IsFinite(std::numeric_limits<float>::infinity()));
  EXPECT_FALSE(IsFinite(std::numeric_limits<float>::quiet_NaN()));
}

TEST(FltNumbersTest, HasWavesOfAllPhases) {
  for (int i = -1000; i <= 1000; ++i) {
    const float turns = static_cast<float>(i) / 2000;
    const double angle = 2 * std::numbers::pi * static_cast<double>(turns);
    float cosine = 7, sine = 7;
    CosineAndSine(turns, &cosine, &sine);
    EXPECT_NEAR(cosine, std::cos(angle), 2e-7) << turns;
    EXPECT_NEAR(sine, std::sin(angle), 2e-7) << turns;
  }
}

}  // namespace
}  // namespace mnemosyne::kernels::cuda
