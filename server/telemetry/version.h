// Which build this is.
#pragma once

namespace mnemosyne::server {

extern const char* const kVersion;  // Such as `0.1.0`.
extern const char* const kCommit;   // Empty if unknown.

}  // namespace mnemosyne::server
