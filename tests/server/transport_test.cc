// The daemon's doors: TLS, its certificates, and its socket.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "mnemosyne/v1/optimizer_service.grpc.pb.h"
#include "proto/codec/access_token.h"
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

// Two tenants of one daemon, by token and by certificate.
class TenantsTest : public TransportTest {
 protected:
  void SetUp() override {
    UseTls();
    UseClientCertificates("request");
    config_.access = folder_ + "/access";
    config_.audit_log = folder_ + "/audit";
    const std::string salt = codec::MakeSalt();
    const std::string admin_salt = codec::MakeSalt();
    ReplaceFile(config_.access,
                fmt::format("token tenant=vision id={} salt={} sha256={}\n"
                            "token tenant=ops role=admin id={} salt={} sha256={}\n"
                            "certificate tenant=speech name=trainer.example\n",
                            token_.id, salt, codec::HashSecret(salt, token_.secret), admin_.id,
                            admin_salt, codec::HashSecret(admin_salt, admin_.secret)));
    ASSERT_OK(Start());
    const std::string& root = authority_.certificate();
    open_ = v1::OptimizerService::NewStub(grpc::CreateChannel(address(), Tls(root)));
    certified_ = v1::OptimizerService::NewStub(grpc::CreateChannel(
        address(), Tls(root, authority_.Issue({.names = {"DNS:trainer.example"}}))));
  }

  // Without its clients the daemon has nobody to wait for.
  void TearDown() override {
    open_.reset();
    certified_.reset();
  }

  static std::unique_ptr<grpc::ClientContext> With(const codec::AccessToken& token) {
    auto context = std::make_unique<grpc::ClientContext>();
    context->AddMetadata("authorization", "Bearer " + codec::FormatAccessToken(token));
    return context;
  }

  static v1::CreateSessionResponse Create(v1::OptimizerService::Stub& stub,
                                          std::unique_ptr<grpc::ClientContext> context) {
    v1::CreateSessionRequest request;
    request.set_request_id("the same for all");
    request.mutable_spec()->set_optimizer("sgd");
    request.mutable_spec()->add_parameters()->set_name("secret-name");
    v1::CreateSessionResponse response;
    const grpc::Status status = stub.CreateSession(context.get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  const codec::AccessToken token_ = codec::MakeAccessToken();
  const codec::AccessToken admin_ = codec::MakeAccessToken();
  std::unique_ptr<v1::OptimizerService::Stub> open_;       // Without a certificate.
  std::unique_ptr<v1::OptimizerService::Stub> certified_;  // As the tenant speech.
};

TEST_F(TenantsTest, AStrangerGetsNothing) {
  v1::GetServerInfoResponse info;
  grpc::ClientContext nobody;
  EXPECT_EQ(open_->GetServerInfo(&nobody, {}, &info).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  v1::ListOptimizersResponse optimizers;
  EXPECT_EQ(
      open_->ListOptimizers(With(codec::MakeAccessToken()).get(), {}, &optimizers).error_code(),
      grpc::StatusCode::UNAUTHENTICATED);
  grpc::ClientContext stream_context;
  const auto stream = open_->Optimize(&stream_context);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(TenantsTest, ATenantSeesNothingOfAnother) {
  const auto vision = Create(*open_, With(token_));
  const auto speech = Create(*certified_, std::make_unique<grpc::ClientContext>());
  EXPECT_NE(vision.session().name(), speech.session().name());

  v1::ListSessionsResponse list;
  ASSERT_TRUE(open_->ListSessions(With(token_).get(), {}, &list).ok());
  ASSERT_EQ(list.sessions_size(), 1);
  EXPECT_EQ(list.sessions(0).name(), vision.session().name());
  v1::GetServerInfoResponse info;
  ASSERT_TRUE(open_->GetServerInfo(With(token_).get(), {}, &info).ok());
  EXPECT_EQ(info.session_count(), 1);

  // Each call says of another's session, even with its token, what it says of none.
  const auto expect_none = [](const grpc::Status& others, const grpc::Status& none) {
    EXPECT_EQ(others.error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_EQ(others.error_message(), none.error_message());
    EXPECT_EQ(others.error_details(), none.error_details());
  };
  const auto try_all = [&](const std::string& name, const std::string& token) {
    std::vector<grpc::Status> statuses;
    v1::GetSessionRequest get;
    get.set_name(name);
    v1::GetSessionResponse got;
    statuses.push_back(open_->GetSession(With(token_).get(), get, &got));
    v1::UpdateSessionRequest update;
    update.set_name(name);
    update.set_token(token);
    v1::UpdateSessionResponse updated;
    statuses.push_back(open_->UpdateSession(With(token_).get(), update, &updated));
    v1::DeleteSessionRequest remove;
    remove.set_name(name);
    remove.set_token(token);
    v1::DeleteSessionResponse removed;
    statuses.push_back(open_->DeleteSession(With(token_).get(), remove, &removed));
    v1::StepRequest step;
    step.set_session(name);
    step.set_token(token);
    v1::StepResponse stepped;
    statuses.push_back(open_->Step(With(token_).get(), step, &stepped));
    v1::ExportStateRequest request;
    request.set_name(name);
    request.set_token(token);
    const auto export_context = With(token_);
    statuses.push_back(open_->ExportState(export_context.get(), request)->Finish());
    const auto import_context = With(token_);
    v1::ImportStateResponse imported;
    const auto writer = open_->ImportState(import_context.get(), &imported);
    v1::ImportStateRequest part;
    part.set_name(name);
    part.set_token(token);
    part.mutable_part()->mutable_header();
    writer->Write(part);
    writer->WritesDone();
    statuses.push_back(writer->Finish());
    const auto stream_context = With(token_);
    const auto stream = open_->Optimize(stream_context.get());
    v1::OptimizeRequest open;
    open.mutable_open()->set_session(name);
    open.mutable_open()->set_token(token);
    stream->Write(open);
    statuses.push_back(stream->Finish());
    return statuses;
  };
  const auto others = try_all(speech.session().name(), speech.token());
  const auto none = try_all("sessions/0123456789abcdef", speech.token());
  for (size_t i = 0; i < others.size(); ++i) expect_none(others[i], none[i]);
}

TEST_F(TenantsTest, OnlyAnAdminReloadsAndSeesAll) {
  const auto vision = Create(*open_, With(token_));
  v1::ReloadModelsResponse reloaded;
  EXPECT_EQ(open_->ReloadModels(With(token_).get(), {}, &reloaded).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(open_->ReloadModels(With(admin_).get(), {}, &reloaded).ok());
  v1::ListSessionsResponse list;
  ASSERT_TRUE(open_->ListSessions(With(admin_).get(), {}, &list).ok());
  EXPECT_EQ(list.sessions_size(), 1);
  v1::DeleteSessionRequest remove;
  remove.set_name(vision.session().name());
  v1::DeleteSessionResponse removed;
  EXPECT_TRUE(open_->DeleteSession(With(admin_).get(), remove, &removed).ok());
}

TEST_F(TenantsTest, TheAuditLogSaysWhoDidWhatAndHoldsNoSecret) {
  const auto vision = Create(*open_, With(token_));
  v1::GetServerInfoResponse info;
  open_->GetServerInfo(With(codec::MakeAccessToken()).get(), {}, &info);
  std::ifstream file(config_.audit_log);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_THAT(text, HasSubstr("\"tenant\":\"vision\",\"means\":\"token:" + token_.id));
  EXPECT_THAT(text, HasSubstr("\"action\":\"CreateSession\",\"outcome\":\"OK\",\"session\":\"" +
                              vision.session().name()));
  EXPECT_THAT(text, HasSubstr("\"action\":\"identify\",\"outcome\":\"WRONG_CREDENTIALS\""));
  for (const std::string& secret : {token_.secret, vision.token(), std::string("secret-name")}) {
    EXPECT_THAT(text, ::testing::Not(HasSubstr(secret)));
  }
}

}  // namespace
}  // namespace mnemosyne::server
