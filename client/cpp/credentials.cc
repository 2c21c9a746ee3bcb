#include "mnemosyne/credentials.h"

#include <fstream>
#include <iterator>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne {
namespace {

absl::Status ReadInto(const std::string& path, std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ifstream file(path, std::ios::binary);
  text.assign(std::istreambuf_iterator<char>(file), {});
  return file.good() || file.eof() ? absl::OkStatus() : NotFound("cannot read {}", path);
}

}  // namespace

absl::StatusOr<Credentials> LoadCredentials(const CredentialFiles& files) {
  Credentials credentials;
  credentials.tls = files.tls || !files.root_certificates.empty() || !files.certificate.empty() ||
                    !files.private_key.empty();
  credentials.server_name = files.server_name;
  MNEMO_RETURN_IF_ERROR(ReadInto(files.root_certificates, credentials.root_certificates));
  MNEMO_RETURN_IF_ERROR(ReadInto(files.certificate, credentials.certificate));
  MNEMO_RETURN_IF_ERROR(ReadInto(files.private_key, credentials.private_key));
  MNEMO_RETURN_IF_ERROR(ReadInto(files.access_token, credentials.access_token));
  std::string& token = credentials.access_token;
  while (!token.empty() && (token.back() == '\n' || token.back() == '\r')) token.pop_back();
  return credentials;
}

}  // namespace mnemosyne
