// Channels to a daemon, set up for this client.
#pragma once

#include <grpcpp/channel.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "mnemosyne/credentials.h"

namespace mnemosyne {

// What gRPC calls `address`, which is as Client::Connect takes it.
absl::StatusOr<std::string> ChannelTarget(std::string_view address);

// Ok if `credentials` may be used with `target`. InvalidArgument for an access token that would
// travel in plaintext beyond this machine, and for a certificate without its key.
absl::Status CheckCredentials(const std::string& target, const Credentials& credentials);

// A channel with a connection of its own, which gRPC makes when it is first used.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target,
                                           const Credentials& credentials = {});

// What each call carries to say who makes it.
std::map<std::string, std::string> CallMetadata(const Credentials& credentials);

}  // namespace mnemosyne
