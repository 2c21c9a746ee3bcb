#include "client/cpp/ctl/text.h"

#include <gtest/gtest.h>

#include <vector>

#include "client/cpp/ctl/step_benchmark.h"

namespace mnemosyne::ctl {
namespace {

TEST(TextTest, PutsColumnsOfNumbersToTheRight) {
  EXPECT_EQ(FormatTable({{"NAME", "SIZE"}, {"a", "5"}, {"long name", "1,234"}}),
            "NAME        SIZE\n"
            "a              5\n"
            "long name  1,234\n");
}

TEST(TextTest, GroupsDigits) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1'000), "1,000");
  EXPECT_EQ(FormatCount(1'234'567), "1,234,567");
  EXPECT_EQ(FormatCount(-123'456), "-123,456");
}

TEST(TextTest, ChoosesUnits) {
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(200.0 * 1024 * 1024), "200 MiB");
  EXPECT_EQ(FormatSeconds(0.00001), "10 us");
  EXPECT_EQ(FormatSeconds(0.0123), "12.30 ms");
  EXPECT_EQ(FormatSeconds(3), "3.00 s");
}

TEST(TextTest, AnUnsetTimeIsNever) { EXPECT_EQ(FormatAge({}), "never"); }

TEST(SummarizeTest, TakesPercentilesFromTheTimesThemselves) {
  std::vector<double> times;
  for (int i = 100; i >= 1; --i) times.push_back(i);

  const Latency latency = Summarize(times);

  EXPECT_EQ(latency.mean, 50.5);
  EXPECT_EQ(latency.p50, 50);
  EXPECT_EQ(latency.p90, 90);
  EXPECT_EQ(latency.p99, 99);
  EXPECT_EQ(latency.maximum, 100);
  EXPECT_EQ(Summarize({7}).p99, 7);
  EXPECT_EQ(Summarize({}).p50, 0);
}

}  // namespace
}  // namespace mnemosyne::ctl
