// Looks at addresses before gRPC does, whose errors do not say what is wrong.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace mnemosyne::server {

// Ok if `address`, HOST:PORT, can be listened on. InvalidArgument for another form, Unavailable
// with the system's reason if it is taken or not this machine's.
absl::Status CheckTcpAddress(const std::string& address);

// Ok if `address` leads to this machine's loopback alone. FailedPrecondition if packets may leave
// the machine: the message says how to encrypt them.
absl::Status CheckPlaintextAddress(const std::string& address);

// Ok if a socket can be made at `path`. InvalidArgument for a path that is too long,
// FailedPrecondition for a folder that is not there or cannot be written, or a file that is no
// socket, Unavailable if another daemon answers there.
absl::Status CheckSocketPath(const std::string& path);

// Ok if a file can be made at `path`; FailedPrecondition with the system's reason.
absl::Status CheckWritableFile(const std::string& path, std::string_view option);

}  // namespace mnemosyne::server
