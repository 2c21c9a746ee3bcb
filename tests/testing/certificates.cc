#include "tests/testing/certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "base/check.h"

namespace mnemosyne::testing {
namespace {

std::string TakeText(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

void AddExtension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str());
  MNEMO_CHECK(extension != nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

// Signed by `root`, or by itself if that is null.
Identity Make(const CertificateOptions& options, const Identity* root) {
  static std::atomic<long> serial = 1;
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate), options.valid_from_seconds);
  X509_gmtime_adj(X509_getm_notAfter(certificate), options.valid_to_seconds);
  X509_set_pubkey(certificate, key);
  X509_NAME* const subject = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(options.common_name.c_str()),
                             -1, -1, 0);

  X509* issuer = certificate;
  EVP_PKEY* issuer_key = key;
  if (root != nullptr) {
    BIO* const certificate_text = BIO_new_mem_buf(root->certificate.data(), -1);
    issuer = PEM_read_bio_X509(certificate_text, nullptr, nullptr, nullptr);
    BIO_free(certificate_text);
    BIO* const key_text = BIO_new_mem_buf(root->key.data(), -1);
    issuer_key = PEM_read_bio_PrivateKey(key_text, nullptr, nullptr, nullptr);
    BIO_free(key_text);
  }
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer));
  AddExtension(certificate, issuer, NID_basic_constraints,
               root == nullptr ? "critical,CA:TRUE" : "critical,CA:FALSE");
  std::string names;
  for (const std::string& name : options.names) names += (names.empty() ? "" : ",") + name;
  if (!names.empty()) AddExtension(certificate, issuer, NID_subject_alt_name, names);
  MNEMO_CHECK(X509_sign(certificate, issuer_key, EVP_sha256()) > 0);

  Identity identity;
  BIO* out = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(out, certificate);
  identity.certificate = TakeText(out);
  out = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr);
  identity.key = TakeText(out);
  if (root != nullptr) {
    X509_free(issuer);
    EVP_PKEY_free(issuer_key);
  }
  X509_free(certificate);
  EVP_PKEY_free(key);
  return identity;
}

}  // namespace

CertificateAuthority::CertificateAuthority(const std::string& common_name)
    : root_(Make({.common_name = common_name, .names = {}}, nullptr)) {}

Identity CertificateAuthority::Issue(const CertificateOptions& options) const {
  return Make(options, &root_);
}

void ReplaceFile(const std::string& path, const std::string& text) {
  std::ofstream(path + ".new") << text;
  std::filesystem::rename(path + ".new", path);
}

std::string MakeTestFolder() {
  std::string pattern = std::filesystem::temp_directory_path() / "mnemosyne-XXXXXX";
  MNEMO_CHECK(mkdtemp(pattern.data()) != nullptr);
  return pattern;
}

}  // namespace mnemosyne::testing
