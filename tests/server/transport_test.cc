// The daemon's doors: TLS, its certificates, and its socket.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/status_macros.h"
#include "mnemosyne/v1/optimizer_service.grpc.pb.h"
#include "server/server.h"
#include "tests/testing/certificates.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using ::mnemosyne::testing::CertificateAuthority;
using ::mnemosyne::testing::Identity;
using ::mnemosyne::testing::MakeTestFolder;
using ::mnemosyne::testing::ReplaceFile;
using ::testing::HasSubstr;

class TransportTest : public ::testing::Test {
 protected:
  TransportTest() : folder_(MakeTestFolder()) {
    config_.listen = {"127.0.0.1:0"};
    config_.models = {"none"};
    config_.threads = 1;
    config_.drain_seconds = 2;
  }
  ~TransportTest() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  void WriteServerFiles(const Identity& identity) {
    ReplaceFile(config_.tls_certificate, identity.certificate);
    ReplaceFile(config_.tls_key, identity.key);
  }

  void UseTls() {
    config_.tls_certificate = folder_ + "/cert.pem";
    config_.tls_key = folder_ + "/key.pem";
    WriteServerFiles(authority_.IssueServer());
  }

  void UseClientCertificates(const std::string& how) {
    config_.tls_client_ca = folder_ + "/ca.pem";
    config_.tls_clients = how;
    ReplaceFile(config_.tls_client_ca, authority_.certificate());
  }

  absl::Status Start() {
    MNEMO_RETURN_IF_ERROR(CompleteConfig(config_));
    MNEMO_ASSIGN_OR_RETURN(server_, Server::Start(config_, Clock::Real()));
    return absl::OkStatus();
  }

  static grpc::Status Call(const std::string& target,
                           const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub =
        v1::OptimizerService::NewStub(grpc::CreateCustomChannel(target, credentials, arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::GetServerInfoResponse response;
    return stub->GetServerInfo(&context, {}, &response);
  }

  static std::shared_ptr<grpc::ChannelCredentials> Tls(const std::string& roots,
                                                       const Identity& identity = {}) {
    return grpc::SslCredentials({.pem_root_certs = roots,
                                 .pem_private_key = identity.key,
                                 .pem_cert_chain = identity.certificate});
  }

  std::string address() const { return server_->addresses()[0]; }

  const std::string folder_;
  const CertificateAuthority authority_;
  ServerConfig config_;
  std::unique_ptr<Server> server_;
};

TEST_F(TransportTest, SpeaksTlsAndNothingElse) {
  UseTls();
  ASSERT_OK(Start());
  EXPECT_TRUE(Call(address(), Tls(authority_.certificate())).ok());
  EXPECT_FALSE(Call(address(), grpc::InsecureChannelCredentials()).ok());
  EXPECT_FALSE(Call(address(), Tls(CertificateAuthority().certificate())).ok());
}

TEST_F(TransportTest, AsksForClientsCertificates) {
  UseTls();
  UseClientCertificates("require");
  ASSERT_OK(Start());
  const Identity client = authority_.Issue({.names = {"DNS:a.example"}});
  const Identity stranger = CertificateAuthority().Issue({.names = {"DNS:a.example"}});
  const std::string& root = authority_.certificate();
  EXPECT_TRUE(Call(address(), Tls(root, client)).ok());
  EXPECT_FALSE(Call(address(), Tls(root, stranger)).ok());
  EXPECT_FALSE(Call(address(), Tls(root)).ok());
}

TEST_F(TransportTest, MayLetClientsComeWithoutACertificateButNotWithAWrongOne) {
  UseTls();
  UseClientCertificates("request");
  ASSERT_OK(Start());
  const std::string& root = authority_.certificate();
  EXPECT_TRUE(Call(address(), Tls(root)).ok());
  EXPECT_FALSE(Call(address(), Tls(root, CertificateAuthority().Issue({.names = {}}))).ok());
}

TEST_F(TransportTest, ANewCertificateNeedsNoRestartAndABadOneDoesNoHarm) {
  UseTls();
  config_.listen.push_back("127.0.0.1:0");
  ASSERT_OK(Start());
  const auto reload = [&](const std::string& roots) {
    server_->ReloadSecurity();
    // The files are read on another thread: each port must come to serve them.
    for (const std::string& each : server_->addresses()) {
      bool served = false;
      for (int tries = 0; tries < 100 && !served; ++tries) served = Call(each, Tls(roots)).ok();
      EXPECT_TRUE(served);
    }
  };
  const CertificateAuthority next("next root");
  WriteServerFiles(next.IssueServer());
  reload(next.certificate());
  EXPECT_FALSE(Call(address(), Tls(authority_.certificate())).ok());

  ReplaceFile(config_.tls_key, "half");
  reload(next.certificate());
  WriteServerFiles(authority_.Issue({.names = {"IP:127.0.0.1"}, .valid_to_seconds = -1}));
  reload(next.certificate());
}

TEST_F(TransportTest, RefusesToStartWithFilesThatDoNotFit) {
  UseTls();
  ReplaceFile(config_.tls_key, authority_.IssueServer().key);
  EXPECT_THAT(std::string(ErrorMessage(Start())), HasSubstr("--tls-key"));
  config_.tls_key.clear();
  EXPECT_THAT(std::string(ErrorMessage(Start())), HasSubstr("together"));
  config_.tls_certificate.clear();
  config_.tls_client_ca = "/ca";
  EXPECT_THAT(std::string(ErrorMessage(Start())), HasSubstr("--tls-client-ca needs"));
}

TEST_F(TransportTest, PlaintextBeyondLoopbackMustBeAskedForByName) {
  config_.listen = {"0.0.0.0:0"};
  EXPECT_THAT(std::string(ErrorMessage(Start())), HasSubstr("--allow-plaintext"));
  config_.listen = {"[::]:0"};
  EXPECT_THAT(std::string(ErrorMessage(Start())), HasSubstr("--allow-plaintext"));
  config_.listen = {"0.0.0.0:0"};
  config_.allow_plaintext = true;
  EXPECT_OK(Start());
  server_.reset();
  config_.allow_plaintext = false;
  UseTls();
  EXPECT_OK(Start());
}

TEST_F(TransportTest, TheSocketIsItsOwnersAlone) {
  config_.socket = folder_ + "/socket";
  ASSERT_OK(Start());
  struct stat info {};
  ASSERT_EQ(::stat(config_.socket.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  EXPECT_TRUE(Call("unix:" + config_.socket, grpc::InsecureChannelCredentials()).ok());
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(config_.socket));
}

}  // namespace
}  // namespace mnemosyne::server
