#include "server/security/access_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "proto/codec/access_token.h"
#include "tests/testing/certificates.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using ::mnemosyne::testing::MakeTestFolder;
using ::mnemosyne::testing::ReplaceFile;
using ::testing::HasSubstr;
using ::testing::Not;

std::string TokenLine(const codec::AccessToken& token, const std::string& rest) {
  const std::string salt = codec::MakeSalt();
  return fmt::format("token {} id={} salt={} sha256={}\n", rest, token.id, salt,
                     codec::HashSecret(salt, token.secret));
}

class AccessPolicyTest : public ::testing::Test {
 protected:
  AccessPolicyTest() : folder_(MakeTestFolder()), path_(folder_ + "/access") {}
  ~AccessPolicyTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<AccessPolicy> Load(const std::string& text) {
    ReplaceFile(path_, text);
    auto policy = AccessPolicy::Load(path_, {}, clock_);
    EXPECT_OK(policy);
    return *std::move(policy);
  }

  static absl::StatusOr<Caller> ByToken(const AccessPolicy& policy, const std::string& token) {
    const std::string authorization = "Bearer " + token;
    return policy.Identify({.authorization = authorization});
  }

  const std::string folder_;
  const std::string path_;
  FakeClock clock_;
  const codec::AccessToken token_ = codec::MakeAccessToken();
  const std::string text_ = codec::FormatAccessToken(token_);
};

TEST_F(AccessPolicyTest, WithoutAFileEverybodyIsTheAdminOfOneTenant) {
  const auto policy = AccessPolicy::Load("", {}, clock_);
  ASSERT_OK(policy);
  const auto caller = (*policy)->Identify({});
  ASSERT_OK(caller);
  EXPECT_TRUE(caller->admin);
  EXPECT_EQ(caller->tenant, "");
}

TEST_F(AccessPolicyTest, KnowsATokenByItsHash) {
  const auto policy = Load(TokenLine(token_, "tenant=vision"));
  const auto caller = ByToken(*policy, text_);
  ASSERT_OK(caller);
  EXPECT_EQ(caller->tenant, "vision");
  EXPECT_FALSE(caller->admin);
  EXPECT_THAT(caller->means, Not(HasSubstr(token_.secret)));
}

TEST_F(AccessPolicyTest, RefusesOtherTokensWithOneAndTheSameWord) {
  const auto policy = Load(TokenLine(token_, "tenant=vision"));
  codec::AccessToken other = token_;
  other.secret.back() = other.secret.back() == '0' ? '1' : '0';
  std::string longer = text_ + "0";
  for (const std::string& wrong :
       {std::string(), std::string("mnemo_"), longer, codec::FormatAccessToken(other),
        codec::FormatAccessToken(codec::MakeAccessToken())}) {
    const auto caller = ByToken(*policy, wrong);
    EXPECT_EQ(caller.status().code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(ErrorReason(caller.status()), "WRONG_CREDENTIALS");
  }
  EXPECT_EQ(ErrorReason(policy->Identify({}).status()), "CREDENTIALS_MISSING");
}

TEST_F(AccessPolicyTest, AWrongTokenIsNotMendedByACertificate) {
  const auto policy = Load("certificate tenant=speech name=a.example\n");
  EXPECT_EQ(policy->Identify({.certificate_names = {"a.example"}})->tenant, "speech");
  EXPECT_FALSE(
      policy->Identify({.authorization = "Bearer x", .certificate_names = {"a.example"}}).ok());
  EXPECT_FALSE(policy->Identify({.certificate_names = {"b.example"}}).ok());
}

TEST_F(AccessPolicyTest, ATokenEndsOnItsDay) {
  const auto policy =
      Load(TokenLine(token_, "tenant=vision expires=2023-11-16"));  // It is the 14th.
  const auto caller = ByToken(*policy, text_);
  ASSERT_OK(caller);
  EXPECT_TRUE(caller->IsValid(clock_.Now()));
  clock_.Advance(std::chrono::hours(48));
  EXPECT_FALSE(ByToken(*policy, text_).ok());
  EXPECT_FALSE(caller->IsValid(clock_.Now()));
}

TEST_F(AccessPolicyTest, TheDaemonsUserIsItsOperatorUnlessTheFileSaysOtherwise) {
  const auto policy = Load("# nobody\n");
  EXPECT_TRUE(policy->Identify({.uid = ::geteuid()})->admin);
  EXPECT_FALSE(policy->Identify({.uid = 4242}).ok());
  EXPECT_FALSE(policy->AdmitsUser(4242));

  const auto named =
      Load(fmt::format("user tenant=ops uid={}\nuser tenant=vision uid=4242\n", ::geteuid()));
  EXPECT_FALSE(named->Identify({.uid = ::geteuid()})->admin);
  EXPECT_EQ(named->Identify({.uid = 4242})->tenant, "vision");
  EXPECT_TRUE(named->AdmitsUser(4242));
}

TEST_F(AccessPolicyTest, AReloadTakesNewTokensAndRevokesOldOnes) {
  const auto policy = Load(TokenLine(token_, "tenant=vision"));
  const auto caller = ByToken(*policy, text_);
  ASSERT_OK(caller);
  policy->Reload();
  EXPECT_TRUE(caller->IsValid(clock_.Now()));

  const codec::AccessToken next = codec::MakeAccessToken();
  ReplaceFile(path_, TokenLine(next, "tenant=vision"));
  policy->Reload();
  EXPECT_FALSE(caller->IsValid(clock_.Now()));
  EXPECT_FALSE(ByToken(*policy, text_).ok());
  EXPECT_OK(ByToken(*policy, codec::FormatAccessToken(next)));
}

TEST_F(AccessPolicyTest, ABadFileKeepsTheOldOne) {
  const auto policy = Load(TokenLine(token_, "tenant=vision"));
  for (const std::string& bad : {std::string("token tenant=vision\n"), std::string("nonsense\n"),
                                 std::string("limit tenant=a"), text_ + "\n"}) {
    ReplaceFile(path_, bad);
    policy->Reload();
    EXPECT_OK(ByToken(*policy, text_));
  }
  std::filesystem::remove(path_);
  policy->Reload();
  EXPECT_OK(ByToken(*policy, text_));
}

TEST_F(AccessPolicyTest, KnowsTheLimitsOfTenants) {
  ReplaceFile(path_, "limit tenant=a sessions=3 memory=2GiB steps-per-second=50\n");
  const auto policy = AccessPolicy::Load(path_, {.sessions = 7, .streams = 9}, clock_);
  ASSERT_OK(policy);
  EXPECT_EQ((*policy)->LimitsOf("a").sessions, 3);
  EXPECT_EQ((*policy)->LimitsOf("a").memory_bytes, int64_t{2} << 30);
  EXPECT_EQ((*policy)->LimitsOf("a").streams, 9);
  EXPECT_EQ((*policy)->LimitsOf("b").sessions, 7);
}

TEST(AccessFileTest, ErrorsNameTheLineAndNoValue) {
  const std::string secret = codec::FormatAccessToken(codec::MakeAccessToken());
  for (const std::string& line :
       {secret, "token tenant=a id=" + secret, "token tenant=" + secret + "!",
        "token tenant=a " + secret, "token tenant=a " + secret + "=1",
        "user tenant=a uid=" + secret, "token tenant=a id=0123456789abcdef salt=" + secret,
        "limit tenant=a memory=" + secret, "certificate tenant=a role=" + secret + " name=x"}) {
    const auto table = ParseAccessFile("# one\n" + line + "\n", {});
    ASSERT_FALSE(table.ok()) << line;
    EXPECT_THAT(std::string(ErrorMessage(table.status())), HasSubstr("line 2"));
    EXPECT_THAT(std::string(ErrorMessage(table.status())), Not(HasSubstr(secret)));
  }
}

TEST(AccessFileTest, RefusesWhatIsGivenTwice) {
  EXPECT_FALSE(ParseAccessFile("user tenant=a uid=1\nuser tenant=b uid=1\n", {}).ok());
  EXPECT_FALSE(ParseAccessFile("user tenant=a tenant=b uid=1\n", {}).ok());
  EXPECT_FALSE(ParseAccessFile("limit tenant=a\nlimit tenant=a\n", {}).ok());
  EXPECT_FALSE(ParseAccessFile("user tenant=a uid=4294967295\n", {}).ok());
  EXPECT_FALSE(ParseAccessFile("limit tenant=a memory=99999999TiB\n", {}).ok());
}

}  // namespace
}  // namespace mnemosyne::server
