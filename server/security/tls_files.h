// A daemon's certificate, its key, and the authorities that it takes clients from: read whole, and
// checked before anyone uses them.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace mnemosyne::server {

// Where the files are. Without a certificate there is no TLS; without client_ca clients need no
// certificate.
struct TlsPaths {
  std::string certificate;  // PEM: the daemon's own, then those between it and the root.
  std::string key;          // PEM, without a passphrase.
  std::string client_ca;    // PEM: roots of clients' certificates.
};

// What they hold.
struct TlsMaterial {
  std::string certificate_chain;
  std::string private_key;
  std::string client_ca;
  Clock::Time not_after;  // The end of the daemon's own certificate.

  bool SameBytes(const TlsMaterial& other) const {
    return certificate_chain == other.certificate_chain && private_key == other.private_key &&
           client_ca == other.client_ca;
  }
};

// The bytes of the files, unchecked; FailedPrecondition for one that cannot be read or is larger
// than a bound.
absl::StatusOr<TlsMaterial> ReadTlsFiles(const TlsPaths& paths);

// Ok, and `not_after` filled in, if the daemon can serve with it at `now`. FailedPrecondition says
// which option's file is empty, cut off or no PEM, which key does not fit, and which certificate is
// not valid yet or any more. The messages name options, and neither paths nor contents.
absl::Status CheckTlsMaterial(TlsMaterial& material, Clock::Time now);

}  // namespace mnemosyne::server
