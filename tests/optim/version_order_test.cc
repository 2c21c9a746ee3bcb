#include "optim/version_order.h"

#include <gtest/gtest.h>

#include <vector>

namespace mnemosyne::optim {
namespace {

TEST(VersionOrderTest, ComparesNumbersAsNumbers) {
  const std::vector<std::string_view> ordered = {"0",
                                                 "0.1",
                                                 "0.1.0",
                                                 "0.9.1",
                                                 "0.10.0",
                                                 "0.10.0-a",
                                                 "0.10.0-b",
                                                 "1",
                                                 "01",
                                                 "2",
                                                 "10",
                                                 "99999999999999999998",
                                                 "99999999999999999999",
                                                 "a",
                                                 "b"};
  for (size_t i = 0; i < ordered.size(); ++i) {
    for (size_t k = 0; k < ordered.size(); ++k) {
      if (ordered[i] == "01" || ordered[k] == "01") continue;
      EXPECT_EQ(IsOlderVersion(ordered[i], ordered[k]), i < k) << ordered[i] << " " << ordered[k];
    }
  }
}

TEST(VersionOrderTest, OrdersTextsThatMeanTheSame) {
  EXPECT_NE(IsOlderVersion("1", "01"), IsOlderVersion("01", "1"));
  EXPECT_FALSE(IsOlderVersion("", ""));
  EXPECT_TRUE(IsOlderVersion("", "1"));
}

}  // namespace
}  // namespace mnemosyne::optim
