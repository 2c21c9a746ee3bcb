#include "server/listen_check.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using ::mnemosyne::testing::IsError;
using ::testing::HasSubstr;

TEST(ListenCheckTest, AcceptsAFreePort) { EXPECT_OK(CheckTcpAddress("127.0.0.1:0")); }

TEST(ListenCheckTest, NamesABusyPort) {
  const int busy = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(busy, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(busy, 1), 0);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::getsockname(busy, reinterpret_cast<sockaddr*>(&address), &size), 0);

  const absl::Status status =
      CheckTcpAddress("127.0.0.1:" + std::to_string(ntohs(address.sin_port)));

  EXPECT_THAT(status, IsError(absl::StatusCode::kUnavailable, "already in use"));
  ::close(busy);
}

TEST(ListenCheckTest, RefusesWhatIsNoAddress) {
  for (const char* address : {"7717", "127.0.0.1", ":7717", "127.0.0.1:", "127.0.0.1:http",
                              "127.0.0.1:99999", "127.0.0.1:-1"}) {
    EXPECT_THAT(CheckTcpAddress(address), IsError(absl::StatusCode::kInvalidArgument, "--listen"))
        << address;
  }
}

TEST(ListenCheckTest, RefusesSocketPathsThatCannotBe) {
  EXPECT_THAT(CheckSocketPath("/nowhere/at/all.sock"),
              IsError(absl::StatusCode::kFailedPrecondition, "does not exist"));
  EXPECT_THAT(CheckSocketPath(std::string(200, 'x')),
              IsError(absl::StatusCode::kInvalidArgument, "200 bytes"));
  const std::string file = ::testing::TempDir() + "/no-socket";
  std::ofstream(file) << "text";
  EXPECT_THAT(CheckSocketPath(file), IsError(absl::StatusCode::kFailedPrecondition, "no socket"));
}

}  // namespace
}  // namespace mnemosyne::server
