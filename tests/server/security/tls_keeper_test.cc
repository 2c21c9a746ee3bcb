#include "server/security/tls_keeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "base/error.h"
#include "tests/testing/certificates.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using ::mnemosyne::testing::CertificateAuthority;
using ::mnemosyne::testing::Identity;
using ::mnemosyne::testing::MakeTestFolder;
using ::mnemosyne::testing::ReplaceFile;
using ::testing::HasSubstr;
using ::testing::Not;

class TlsKeeperTest : public ::testing::Test {
 protected:
  TlsKeeperTest()
      : folder_(MakeTestFolder()),
        paths_{.certificate = folder_ + "/cert.pem",
               .key = folder_ + "/key.pem",
               .client_ca = folder_ + "/ca.pem"} {
    Write(authority_.IssueServer());
    ReplaceFile(paths_.client_ca, authority_.certificate());
  }
  ~TlsKeeperTest() override { std::filesystem::remove_all(folder_); }

  void Write(const Identity& identity) {
    ReplaceFile(paths_.certificate, identity.certificate);
    ReplaceFile(paths_.key, identity.key);
  }

  std::string Refusal() {
    const auto keeper = TlsKeeper::Load(paths_, Clock::Real());
    return keeper.ok() ? "accepted" : std::string(ErrorMessage(keeper.status()));
  }

  const std::string folder_;
  const CertificateAuthority authority_;
  TlsPaths paths_;
};

TEST_F(TlsKeeperTest, LoadsAPairThatFits) {
  const auto keeper = TlsKeeper::Load(paths_, Clock::Real());
  ASSERT_OK(keeper);
  EXPECT_EQ((*keeper)->current().number, 1);
  EXPECT_TRUE((*keeper)->has_client_ca());
}

TEST_F(TlsKeeperTest, RefusesWhatItCannotServeWithAndNamesTheOption) {
  const Identity good = authority_.IssueServer();
  const Identity other = authority_.IssueServer();

  Write({good.certificate, other.key});
  EXPECT_THAT(Refusal(), HasSubstr("--tls-key: the key is not that of"));
  Write({"", good.key});
  EXPECT_THAT(Refusal(), HasSubstr("--tls-certificate: the file is empty, cut off"));
  Write({good.certificate.substr(0, good.certificate.size() / 2), good.key});
  EXPECT_THAT(Refusal(), HasSubstr("--tls-certificate: the file is empty, cut off"));
  Write({good.certificate + good.certificate.substr(0, 100), good.key});
  EXPECT_THAT(Refusal(), HasSubstr("--tls-certificate: the file is empty, cut off"));
  Write({good.certificate, good.key.substr(0, 60)});
  EXPECT_THAT(Refusal(), HasSubstr("--tls-key: the file is empty, cut off"));
  Write(authority_.Issue({.names = {}, .valid_from_seconds = -200, .valid_to_seconds = -100}));
  EXPECT_THAT(Refusal(), HasSubstr("has expired"));
  Write(authority_.Issue({.names = {}, .valid_from_seconds = 100, .valid_to_seconds = 200}));
  EXPECT_THAT(Refusal(), HasSubstr("not valid yet"));
  Write(good);
  ReplaceFile(paths_.client_ca, "no certificate");
  EXPECT_THAT(Refusal(), HasSubstr("--tls-client-ca"));
  std::filesystem::remove(paths_.client_ca);
  EXPECT_THAT(Refusal(), HasSubstr("No such file"));
}

TEST_F(TlsKeeperTest, RefusalsTellNoPathsAndNoContents) {
  Write({"-----BEGIN secret", "secret"});
  EXPECT_THAT(Refusal(), Not(HasSubstr("secret")));
  EXPECT_THAT(Refusal(), Not(HasSubstr(folder_)));
}

TEST_F(TlsKeeperTest, ANewPairTakesThePlaceOfTheOldOne) {
  const auto keeper = TlsKeeper::Load(paths_, Clock::Real());
  ASSERT_OK(keeper);
  (*keeper)->Reload();
  EXPECT_EQ((*keeper)->current().number, 1);

  const Identity next = authority_.IssueServer();
  Write(next);
  (*keeper)->Reload();
  EXPECT_EQ((*keeper)->current().number, 2);
  EXPECT_EQ((*keeper)->current().material->private_key, next.key);
}

TEST_F(TlsKeeperTest, ABadPairKeepsTheOldOneUntilItIsMended) {
  const auto keeper = TlsKeeper::Load(paths_, Clock::Real());
  ASSERT_OK(keeper);
  const auto before = (*keeper)->current().material;

  const Identity next = authority_.IssueServer();
  ReplaceFile(paths_.certificate, next.certificate);  // The key has not followed yet.
  (*keeper)->Reload();
  EXPECT_EQ((*keeper)->current().material, before);
  ReplaceFile(paths_.key, "");
  (*keeper)->Reload();
  EXPECT_EQ((*keeper)->current().material, before);

  ReplaceFile(paths_.key, next.key);
  (*keeper)->Reload();
  EXPECT_EQ((*keeper)->current().number, 2);
}

}  // namespace
}  // namespace mnemosyne::server
