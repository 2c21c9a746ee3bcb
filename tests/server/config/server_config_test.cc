#include "server/config/server_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "base/error.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using ::testing::HasSubstr;

// Parses `arguments`; CLI11's complaint comes back as text.
std::string Parse(const std::string& arguments, ServerConfig& config) {
  CLI::App app;
  AddOptions(app, config);
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "";
}

TEST(ServerConfigTest, HasSaneDefaults) {
  ServerConfig config;
  EXPECT_EQ(Parse("", config), "");
  EXPECT_OK(CompleteConfig(config));
  EXPECT_EQ(config.listen, std::vector<std::string>{"127.0.0.1:7717"});
  EXPECT_GT(config.memory_max, 0);
}

TEST(ServerConfigTest, TakesSizesWithUnits) {
  ServerConfig config;
  EXPECT_EQ(Parse("--memory-max 3GiB --message-max 8MiB", config), "");
  EXPECT_EQ(config.memory_max, int64_t{3} << 30);
  EXPECT_EQ(config.message_max, 8 << 20);
}

TEST(ServerConfigTest, RefusesValuesOutOfBoundsAndUnknownFlags) {
  ServerConfig config;
  EXPECT_THAT(Parse("--queue-max 0", config), HasSubstr("--queue-max"));
  EXPECT_THAT(Parse("--isa sse9", config), HasSubstr("baseline"));
  EXPECT_THAT(Parse("--no-such-flag", config), HasSubstr("--no-such-flag"));
  EXPECT_THAT(Parse("--threads many", config), HasSubstr("--threads"));
}

TEST(ServerConfigTest, NeedsSomewhereToListen) {
  ServerConfig config;
  EXPECT_EQ(Parse("--listen none", config), "");
  EXPECT_THAT(std::string(ErrorMessage(CompleteConfig(config))), HasSubstr("--socket"));
  config.socket = "/tmp/x";
  EXPECT_OK(CompleteConfig(config));
}

TEST(ServerConfigTest, RefusesCellsThatDoNotFitIntoAMessage) {
  ServerConfig config;
  EXPECT_EQ(Parse("--cell-elements 2000000", config), "");
  EXPECT_THAT(std::string(ErrorMessage(CompleteConfig(config))), HasSubstr("--message-max"));
}

TEST(ServerConfigTest, ReadsAFile) {
  const std::string path = ::testing::TempDir() + "/mnemosyned.toml";
  std::ofstream(path) << "queue-max = 7\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"]\n";
  ServerConfig config;
  EXPECT_EQ(Parse("--config " + path, config), "");
  EXPECT_EQ(config.queue_max, 7);
  EXPECT_EQ(config.listen.size(), 2);
}

}  // namespace
}  // namespace mnemosyne::server
