#include "client/cpp/channel.h"

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <string_view>

#include "base/error.h"

namespace mnemosyne {
namespace {

constexpr std::string_view kDefaultPort = "7717";

// A state of 10,000 parameters with long names has a header of some MiB; the daemon's other
// messages are below 4 MiB.
constexpr int kMessageBytesMax = 64 << 20;

// Finds a daemon whose machine died without a word within 40 s.
constexpr int kKeepaliveTimeMs = 20'000;
constexpr int kKeepaliveTimeoutMs = 20'000;

// gRPC's own waits between connections, short because callers wait by their RetryPolicy.
constexpr int kReconnectMinMs = 50;
constexpr int kReconnectMaxMs = 2'000;
// The least time that a connection gets.
constexpr int kConnectMs = 5'000;

// Whether `address` ends in a port; an IPv6 address without one has brackets or many colons.
bool HasPort(std::string_view address) {
  if (address.ends_with(']')) return false;
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return false;
  return address.starts_with('[') || address.find(':') == colon;
}

// Whether packets to `target` cannot leave this machine.
bool IsThisMachine(std::string_view target) {
  return target.starts_with("unix:") || target.starts_with("127.") ||
         target.starts_with("localhost:") || target.starts_with("[::1]:");
}

}  // namespace

absl::StatusOr<std::string> ChannelTarget(std::string_view address) {
  if (address.starts_with("unix:")) {
    if (address.substr(5).find_first_not_of('/') == std::string_view::npos) {
      return InvalidArgument("the address names no socket: {}", address);
    }
    return std::string(address);
  }
  if (address.empty() || address.find_first_of("/ \t\n") != std::string_view::npos) {
    return InvalidArgument("wrong address: '{}' is none of host, host:port, unix:/path", address);
  }
  if (HasPort(address)) {
    const std::string_view port = address.substr(address.rfind(':') + 1);
    const bool digits = std::all_of(port.begin(), port.end(),
                                    [](char digit) { return digit >= '0' && digit <= '9'; });
    if (port.empty() || port.size() > 5 || !digits) {
      return InvalidArgument("wrong address: '{}' has no port number after its colon", address);
    }
    return std::string(address);
  }
  const bool bare_ipv6 = !address.starts_with('[') && address.find(':') != std::string_view::npos;
  return bare_ipv6 ? fmt::format("[{}]:{}", address, kDefaultPort)
                   : fmt::format("{}:{}", address, kDefaultPort);
}

absl::Status CheckCredentials(const std::string& target, const Credentials& credentials) {
  if (credentials.certificate.empty() != credentials.private_key.empty()) {
    return InvalidArgument("a certificate and its key are given together or not at all");
  }
  if (!credentials.tls && !credentials.access_token.empty() && !IsThisMachine(target)) {
    return InvalidArgument(
        "the access token would travel to {} in plaintext, where anyone could take it; use TLS",
        target);
  }
  return absl::OkStatus();
}

std::map<std::string, std::string> CallMetadata(const Credentials& credentials) {
  if (credentials.access_token.empty()) return {};
  return {{"authorization", "Bearer " + credentials.access_token}};
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target,
                                           const Credentials& credentials) {
  grpc::ChannelArguments arguments;
  // Channels to the same address do not share a connection: each stream has its own.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);     // Tensors are sent again by us, not by gRPC.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // A proxy for the web leads to no daemon.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMinMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMaxMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  if (!credentials.server_name.empty()) {
    arguments.SetSslTargetNameOverride(credentials.server_name);
  }
  const auto security = credentials.tls
                            ? grpc::SslCredentials({.pem_root_certs = credentials.root_certificates,
                                                    .pem_private_key = credentials.private_key,
                                                    .pem_cert_chain = credentials.certificate})
                            : grpc::InsecureChannelCredentials();
  return grpc::CreateCustomChannel(target, security, arguments);
}

}  // namespace mnemosyne
