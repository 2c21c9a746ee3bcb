// Errors of host functions: absl::Status with a reason for programs and values behind the message.
//
// Messages are static words, then values: `wrong size: values has 11 elements, expected 12`. The
// caller's fault is InvalidArgument or FailedPrecondition, load is ResourceExhausted, rotten bits
// are DataLoss, our own fault is Internal or a failed MNEMO_CHECK.
#pragma once

#include <fmt/format.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace mnemosyne {

// Returns a status of `code` with the message and no reason.
inline absl::Status MakeError(absl::StatusCode code, std::string_view message) {
  return absl::Status(code, absl::string_view(message.data(), message.size()));
}

// Attaches a reason, a constant in UPPER_SNAKE_CASE, for programs that react to the error.
absl::Status WithReason(absl::Status status, std::string_view reason);

// Attaches a value behind the message.
absl::Status WithMetadata(absl::Status status, std::string_view key, std::string_view value);

// The same error with more words behind its message.
absl::Status WithMoreWords(const absl::Status& status, std::string_view words);

// The reason of `status`; where none was attached, the name of its code, such as NOT_FOUND.
std::string ErrorReason(const absl::Status& status);

// The values attached to `status`.
std::map<std::string, std::string> ErrorMetadata(const absl::Status& status);

// The message as std::string_view.
inline std::string_view ErrorMessage(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

template <typename... Args>
absl::Status InvalidArgument(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kInvalidArgument,
                   fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
absl::Status FailedPrecondition(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kFailedPrecondition,
                   fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
absl::Status NotFound(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kNotFound, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
absl::Status ResourceExhausted(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kResourceExhausted,
                   fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
absl::Status DataLoss(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kDataLoss, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
absl::Status Internal(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kInternal, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
absl::Status Unavailable(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kUnavailable,
                   fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace mnemosyne
