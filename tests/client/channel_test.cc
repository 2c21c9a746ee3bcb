#include "client/cpp/channel.h"

#include <gtest/gtest.h>

namespace mnemosyne {
namespace {

TEST(ChannelTargetTest, AddsTheDefaultPort) {
  EXPECT_EQ(*ChannelTarget("127.0.0.1"), "127.0.0.1:7717");
  EXPECT_EQ(*ChannelTarget("trainer.example"), "trainer.example:7717");
  EXPECT_EQ(*ChannelTarget("[::1]"), "[::1]:7717");
  EXPECT_EQ(*ChannelTarget("::1"), "[::1]:7717");
}

TEST(ChannelTargetTest, KeepsPortsAndSockets) {
  EXPECT_EQ(*ChannelTarget("127.0.0.1:80"), "127.0.0.1:80");
  EXPECT_EQ(*ChannelTarget("[::1]:80"), "[::1]:80");
  EXPECT_EQ(*ChannelTarget("unix:/run/mnemosyned.sock"), "unix:/run/mnemosyned.sock");
  EXPECT_EQ(*ChannelTarget("unix:relative.sock"), "unix:relative.sock");
}

TEST(ChannelTargetTest, RefusesWhatIsNoAddress) {
  for (const char* address :
       {"", "unix:", "unix:/", "host:", "host:port", "host:123456", "http://host", "a b"}) {
    EXPECT_EQ(ChannelTarget(address).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
}

TEST(CheckCredentialsTest, ATokenTravelsInPlaintextOnThisMachineAlone) {
  const Credentials token{.access_token = "t"};
  for (const char* target : {"127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/x"}) {
    EXPECT_TRUE(CheckCredentials(target, token).ok()) << target;
  }
  for (const char* target : {"10.0.0.1:1", "localhost.example:1", "trainer:1", "[::]:1"}) {
    EXPECT_FALSE(CheckCredentials(target, token).ok()) << target;
    EXPECT_TRUE(CheckCredentials(target, {.tls = true, .access_token = "t"}).ok()) << target;
  }
}

TEST(CheckCredentialsTest, ACertificateNeedsItsKey) {
  EXPECT_FALSE(CheckCredentials("trainer:1", {.tls = true, .certificate = "c"}).ok());
}

}  // namespace
}  // namespace mnemosyne
