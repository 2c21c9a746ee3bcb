#include "server/security/tls_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstdint>
#include <ctime>
#include <memory>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "server/security/small_file.h"

namespace mnemosyne::server {
namespace {

constexpr size_t kFileBytesMax = size_t{1} << 20;

constexpr char kCertificate[] = "--tls-certificate";
constexpr char kKey[] = "--tls-key";
constexpr char kClientCa[] = "--tls-client-ca";

template <typename T, void (*kFree)(T*)>
struct Freed {
  void operator()(T* pointer) const { kFree(pointer); }
};
using X509Ptr = std::unique_ptr<X509, Freed<X509, X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY, EVP_PKEY_free>>;
struct BioFreed {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using BioPtr = std::unique_ptr<BIO, BioFreed>;

BioPtr Reader(const std::string& text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

size_t Count(std::string_view text, std::string_view word) {
  size_t count = 0;
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    ++count;
  }
  return count;
}

// A key with a passphrase is refused instead of asked about on a terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

// Every certificate of a PEM file: a file that was cut off has a beginning without an end.
absl::StatusOr<std::vector<X509Ptr>> ParseCertificates(const std::string& text,
                                                       std::string_view option) {
  const BioPtr reader = Reader(text);
  std::vector<X509Ptr> certificates;
  while (X509* certificate = PEM_read_bio_X509(reader.get(), nullptr, NoPassphrase, nullptr)) {
    certificates.emplace_back(certificate);
  }
  ERR_clear_error();
  if (certificates.empty() || certificates.size() != Count(text, "-----BEGIN ")) {
    return FailedPrecondition(
        "{}: the file is empty, cut off, or holds something that is no PEM certificate", option);
  }
  return certificates;
}

absl::Status CheckDates(const X509& certificate, std::string_view option, Clock::Time now) {
  std::time_t seconds = Clock::Time::clock::to_time_t(now);
  if (X509_cmp_time(X509_get0_notBefore(&certificate), &seconds) >= 0) {
    return FailedPrecondition("{}: the certificate is not valid yet; check the clock", option);
  }
  if (X509_cmp_time(X509_get0_notAfter(&certificate), &seconds) <= 0) {
    return FailedPrecondition("{}: the certificate has expired; put a new one in its place",
                              option);
  }
  return absl::OkStatus();
}

Clock::Time ToTime(const ASN1_TIME* time) {
  std::tm calendar{};
  ASN1_TIME_to_tm(time, &calendar);
  return Clock::Time::clock::from_time_t(timegm(&calendar));
}

}  // namespace

absl::StatusOr<TlsMaterial> ReadTlsFiles(const TlsPaths& paths) {
  TlsMaterial material;
  MNEMO_ASSIGN_OR_RETURN(material.certificate_chain,
                         ReadSmallFile(paths.certificate, kFileBytesMax, kCertificate));
  MNEMO_ASSIGN_OR_RETURN(material.private_key, ReadSmallFile(paths.key, kFileBytesMax, kKey));
  if (!paths.client_ca.empty()) {
    MNEMO_ASSIGN_OR_RETURN(material.client_ca,
                           ReadSmallFile(paths.client_ca, kFileBytesMax, kClientCa));
    if (material.client_ca.empty()) return FailedPrecondition("{}: the file is empty", kClientCa);
  }
  return material;
}

absl::Status CheckTlsMaterial(TlsMaterial& material, Clock::Time now) {
  MNEMO_ASSIGN_OR_RETURN(const std::vector<X509Ptr> chain,
                         ParseCertificates(material.certificate_chain, kCertificate));
  for (const X509Ptr& certificate : chain) {
    MNEMO_RETURN_IF_ERROR(CheckDates(*certificate, kCertificate, now));
  }
  const BioPtr reader = Reader(material.private_key);
  const KeyPtr key(PEM_read_bio_PrivateKey(reader.get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  if (key == nullptr) {
    return FailedPrecondition("{}: the file is empty, cut off, has a passphrase, or is no PEM key",
                              kKey);
  }
  const bool fits = X509_check_private_key(chain.front().get(), key.get()) == 1;
  ERR_clear_error();
  if (!fits) {
    return FailedPrecondition("{}: the key is not that of the first certificate in {}", kKey,
                              kCertificate);
  }
  if (!material.client_ca.empty()) {
    MNEMO_ASSIGN_OR_RETURN(const std::vector<X509Ptr> roots,
                           ParseCertificates(material.client_ca, kClientCa));
    for (const X509Ptr& root : roots) {
      MNEMO_RETURN_IF_ERROR(CheckDates(*root, kClientCa, now));
    }
  }
  material.not_after = ToTime(X509_get0_notAfter(chain.front().get()));
  return absl::OkStatus();
}

}  // namespace mnemosyne::server
