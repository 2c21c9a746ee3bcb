#include "server/rpc/tls_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include <cstdint>
#include <string>

namespace mnemosyne::server {
namespace {

grpc_ssl_client_certificate_request_type RequestType(const TlsKeeper& keeper,
                                                     ClientCertificates clients) {
  if (!keeper.has_client_ca()) return GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE;
  return clients == ClientCertificates::kRequired
             ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
             : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY;
}

// gRPC's C++ library has no credentials whose files are fetched anew for a handshake, its C library
// has: this carries them to the port.
class TlsCredentials final : public grpc::ServerCredentials {
 public:
  TlsCredentials(const TlsKeeper& keeper, ClientCertificates clients)
      : keeper_(keeper),
        credentials_(grpc_ssl_server_credentials_create_with_options(
            grpc_ssl_server_credentials_create_options_using_config_fetcher(
                RequestType(keeper, clients), &TlsCredentials::Fetch, this))) {}

  ~TlsCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  // gRPC calls it under a lock of the port.
  static grpc_ssl_certificate_config_reload_status Fetch(
      void* self, grpc_ssl_server_certificate_config** config) {
    auto& port = *static_cast<TlsCredentials*>(self);
    const TlsKeeper::Current current = port.keeper_.current();
    if (current.number == port.number_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const TlsMaterial& material = *current.material;
    const grpc_ssl_pem_key_cert_pair pair{material.private_key.c_str(),
                                          material.certificate_chain.c_str()};
    // gRPC wants some roots even where no client is asked for a certificate; then they verify
    // nobody.
    const std::string& roots =
        material.client_ca.empty() ? material.certificate_chain : material.client_ca;
    *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
    port.number_ = current.number;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const TlsKeeper& keeper_;
  uint64_t number_ = 0;  // Of what the port serves with.
  grpc_server_credentials* const credentials_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeTlsCredentials(const TlsKeeper& keeper,
                                                            ClientCertificates clients) {
  return std::make_shared<TlsCredentials>(keeper, clients);
}

}  // namespace mnemosyne::server
