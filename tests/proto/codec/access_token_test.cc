#include "proto/codec/access_token.h"

#include <gtest/gtest.h>

namespace mnemosyne::codec {
namespace {

TEST(AccessTokenTest, TravelsAsText) {
  const AccessToken token = MakeAccessToken();
  EXPECT_EQ(token.secret.size(), 64);
  const auto parsed = ParseAccessToken(FormatAccessToken(token));
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->id, token.id);
  EXPECT_EQ(parsed->secret, token.secret);
}

TEST(AccessTokenTest, NoTwoAreAlike) {
  const AccessToken first = MakeAccessToken();
  const AccessToken second = MakeAccessToken();
  EXPECT_NE(first.id, second.id);
  EXPECT_NE(first.secret, second.secret);
  EXPECT_NE(MakeSalt(), MakeSalt());
}

TEST(AccessTokenTest, RefusesOtherForms) {
  const std::string good = FormatAccessToken(MakeAccessToken());
  EXPECT_FALSE(ParseAccessToken(""));
  EXPECT_FALSE(ParseAccessToken(good.substr(1)));
  EXPECT_FALSE(ParseAccessToken(good + "0"));
  std::string upper = good;
  upper.back() = 'F';
  EXPECT_FALSE(ParseAccessToken(upper));
}

TEST(AccessTokenTest, TheHashDependsOnTheSalt) {
  EXPECT_EQ(HashSecret("00", "11"), HashSecret("00", "11"));
  EXPECT_NE(HashSecret("00", "11"), HashSecret("01", "11"));
  // The SHA-256 of `a:b`.
  EXPECT_EQ(HashSecret("a", "b"),
            "6783a31eabf68ccc0660f935c0826282bdd2241f3a80a9f2d10d59aea9ebb5d8");
}

}  // namespace
}  // namespace mnemosyne::codec
