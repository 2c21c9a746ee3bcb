// Certificates for tests, made on the spot: no key lies in the repository.
#pragma once

#include <string>
#include <vector>

namespace mnemosyne::testing {

// A certificate and its key, in PEM.
struct Identity {
  std::string certificate;
  std::string key;
};

struct CertificateOptions {
  std::string common_name = "test";
  std::vector<std::string>
      names;  // DNS names and IP addresses, as `DNS:localhost`, `IP:127.0.0.1`.
  int valid_from_seconds = -3600;  // From now.
  int valid_to_seconds = 3600;
};

// A root of certificates.
class CertificateAuthority {
 public:
  explicit CertificateAuthority(const std::string& common_name = "test root");

  // The root's certificate, in PEM.
  const std::string& certificate() const { return root_.certificate; }

  Identity Issue(const CertificateOptions& options) const;

  // An identity for a daemon on this machine's loopback.
  Identity IssueServer() const {
    return Issue({.common_name = "mnemosyned", .names = {"DNS:localhost", "IP:127.0.0.1"}});
  }

 private:
  Identity root_;
};

// Writes `text` to a file beside `path` and renames it into place.
void ReplaceFile(const std::string& path, const std::string& text);

// A folder of its own for one test.
std::string MakeTestFolder();

}  // namespace mnemosyne::testing
