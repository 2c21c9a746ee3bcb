// How a client and a daemon know each other.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace mnemosyne {

// What a client trusts and shows. By default nothing is encrypted and nothing shown, which suits
// loopback and a Unix-domain socket.
struct Credentials {
  bool tls = false;
  std::string root_certificates = {};  // PEM; empty for those of the system. With tls.
  std::string certificate = {};        // PEM, of this client, if the daemon asks for one. With tls.
  std::string private_key = {};        // PEM, of the certificate.
  std::string server_name = {};        // What the daemon's certificate names, if not its address.
  std::string access_token = {};       // As `mnemosynectl token` made it; sent with every call.
};

// Where the same lies in files. An empty path is nothing.
struct CredentialFiles {
  bool tls = false;  // Any of the next three paths means it, too.
  std::string root_certificates = {};
  std::string certificate = {};
  std::string private_key = {};
  std::string server_name = {};
  std::string access_token = {};  // A file with the token and nothing else.
};

// Reads the files. NotFound names one that cannot be read.
absl::StatusOr<Credentials> LoadCredentials(const CredentialFiles& files);

}  // namespace mnemosyne
