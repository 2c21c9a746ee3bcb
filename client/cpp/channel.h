// Channels to a daemon, set up for this client.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace mnemosyne {

// What gRPC calls `address`, which is as Client::Connect takes it.
absl::StatusOr<std::string> ChannelTarget(std::string_view address);

// A channel with a connection of its own, which gRPC makes when it is first used.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target);

}  // namespace mnemosyne
