#include "proto/codec/access_token.h"

#include <fmt/format.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <span>

#include "base/check.h"
#include "base/sha256.h"

namespace mnemosyne::codec {
namespace {

constexpr std::string_view kPrefix = "mnemo_";
constexpr size_t kIdDigits = 16;
constexpr size_t kSaltDigits = 32;
constexpr size_t kSecretDigits = 64;

std::string RandomHex(size_t digits) {
  std::array<unsigned char, kSecretDigits / 2> bytes{};
  MNEMO_CHECK(RAND_bytes(bytes.data(), static_cast<int>(digits / 2)) == 1);
  std::string text;
  for (size_t i = 0; i < digits / 2; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

bool IsHex(std::string_view text) {
  return std::ranges::all_of(
      text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

AccessToken MakeAccessToken() { return {RandomHex(kIdDigits), RandomHex(kSecretDigits)}; }

std::string MakeSalt() { return RandomHex(kSaltDigits); }

std::string FormatAccessToken(const AccessToken& token) {
  return fmt::format("{}{}_{}", kPrefix, token.id, token.secret);
}

std::optional<AccessToken> ParseAccessToken(std::string_view text) {
  if (text.size() != kPrefix.size() + kIdDigits + 1 + kSecretDigits) return std::nullopt;
  if (!text.starts_with(kPrefix)) return std::nullopt;
  const std::string_view id = text.substr(kPrefix.size(), kIdDigits);
  const std::string_view secret = text.substr(kPrefix.size() + kIdDigits + 1);
  if (text[kPrefix.size() + kIdDigits] != '_' || !IsHex(id) || !IsHex(secret)) return std::nullopt;
  return AccessToken{std::string(id), std::string(secret)};
}

std::string HashSecret(std::string_view salt, std::string_view secret) {
  const std::string text = fmt::format("{}:{}", salt, secret);
  return Sha256Hex(std::as_bytes(std::span(text)));
}

}  // namespace mnemosyne::codec
