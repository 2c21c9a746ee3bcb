#include "base/json_integer.h"

#include <gtest/gtest.h>

#include <limits>

namespace mnemosyne {
namespace {

using Json = nlohmann::json;

TEST(JsonIntegerTest, ReadsWhatItsTypeHolds) {
  EXPECT_EQ(IntegerOf<int>(Json::parse("-7")), -7);
  EXPECT_EQ(IntegerOf<uint64_t>(Json::parse("18446744073709551615")), ~uint64_t{0});
  EXPECT_EQ(IntegerOf<int64_t>(Json::parse("-9223372036854775808")),
            std::numeric_limits<int64_t>::min());
  EXPECT_EQ(IntegersOf<int64_t>(Json::parse("[2, 3]")), (std::vector<int64_t>{2, 3}));
}

TEST(JsonIntegerTest, RefusesWhatItWouldHaveToBend) {
  for (const char* text : {"1e300", "1.5", "2.0", "9223372036854775808", "\"7\"", "true", "null"}) {
    EXPECT_THROW(IntegerOf<int64_t>(Json::parse(text)), std::out_of_range) << text;
  }
  EXPECT_THROW(IntegerOf<uint64_t>(Json::parse("-1")), std::out_of_range);
  EXPECT_THROW(IntegerOf<int32_t>(Json::parse("2147483648")), std::out_of_range);
  EXPECT_THROW(IntegersOf<int64_t>(Json::parse("[1, 1e60]")), std::out_of_range);
  EXPECT_THROW(IntegersOf<int64_t>(Json::parse("{\"a\": 1}")), std::out_of_range);
}

}  // namespace
}  // namespace mnemosyne
