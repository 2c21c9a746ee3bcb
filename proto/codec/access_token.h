// Access tokens: what a tenant shows to a daemon, and what the daemon keeps instead of them.
//
// A token is `mnemo_`, an id of 16 hexadecimal digits, `_`, and a secret of 64. The daemon's file
// holds the id, a salt, and the SHA-256 of the salt and the secret. A secret has 256 random bits,
// so that nobody can try them all, and a hash that is slow on purpose would only slow calls down.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mnemosyne::codec {

struct AccessToken {
  std::string id;
  std::string secret;
};

// A random token, from the operating system's generator.
AccessToken MakeAccessToken();

// A random salt: 32 hexadecimal digits.
std::string MakeSalt();

// The token as it is sent, and back; nothing for text of any other form.
std::string FormatAccessToken(const AccessToken& token);
std::optional<AccessToken> ParseAccessToken(std::string_view text);

// What is kept of a secret: 64 hexadecimal digits.
std::string HashSecret(std::string_view salt, std::string_view secret);

}  // namespace mnemosyne::codec
