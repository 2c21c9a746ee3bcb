// Feeds arbitrary access files to their reader, and arbitrary text to that of access tokens. An
// error must hold nothing of the file, which may have secrets in wrong places; what is accepted
// must be within the form that it is documented with.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "proto/codec/access_token.h"
#include "server/security/access_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto token = mnemosyne::codec::ParseAccessToken(text)) {
    if (mnemosyne::codec::FormatAccessToken(*token) != text) std::abort();
  }
  const auto table = mnemosyne::server::ParseAccessFile(text, {});
  if (!table.ok()) {
    // A run of digits as long as a secret can only come from the file.
    const std::string message(mnemosyne::ErrorMessage(table.status()));
    size_t run = 0;
    for (const char c : message) {
      run = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') ? run + 1 : 0;
      if (run >= 20) std::abort();
    }
    return 0;
  }
  for (const auto& [id, entry] : table->tokens) {
    if (id.size() != 16 || entry.salt.size() != 32 || entry.sha256.size() != 64) std::abort();
    if (entry.role.tenant.empty() || entry.role.tenant.size() > 64) std::abort();
  }
  for (const auto& [tenant, limits] : table->limits) {
    if (limits.memory_bytes < 0 || limits.inflight_bytes < 0 || limits.sessions < 0) std::abort();
  }
  return 0;
}
