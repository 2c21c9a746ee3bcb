// Files of the configuration: read whole, up to a bound.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace mnemosyne::server {

// The bytes of the file at `path`. FailedPrecondition for one that cannot be opened or read, that
// is no regular file, or that has more than `bytes_max`; the message names `option` and not the
// path, which is the operator's.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t bytes_max,
                                          std::string_view option);

}  // namespace mnemosyne::server
