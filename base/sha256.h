// SHA-256, for naming contents so that nobody can make another content with the same name.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace mnemosyne {

// The SHA-256 of `bytes` as 64 lower-case hexadecimal digits, as `sha256sum` prints it.
// Reference: FIPS 180-4.
std::string Sha256Hex(std::span<const std::byte> bytes);

}  // namespace mnemosyne
