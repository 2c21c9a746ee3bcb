#include "client/cpp/ctl/command.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace mnemosyne::ctl {

namespace {

std::chrono::milliseconds Milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Connect(const GlobalOptions& options,
                                                double call_seconds_min) {
  ClientOptions client_options;
  auto credentials = LoadCredentials(options.credentials);
  if (!credentials.ok()) return UsageError(std::string(ErrorMessage(credentials.status())));
  client_options.credentials = *std::move(credentials);
  client_options.connect_timeout = Milliseconds(options.timeout_seconds);
  client_options.call_timeout = Milliseconds(std::max(options.timeout_seconds, call_seconds_min));
  auto client = Client::Connect(options.address, client_options);
  if (absl::IsInvalidArgument(client.status())) {
    return UsageError("--address: " + std::string(ErrorMessage(client.status())));
  }
  return client;
}

absl::Status UsageError(const std::string& message) {
  return WithReason(InvalidArgument("{}", message), "USAGE");
}

ExitCode ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return kExitOk;
  const std::string reason = ErrorReason(status);
  if (reason == "USAGE") return kExitUsage;
  if (reason == "NOT_SERVING") return kExitRefused;
  const bool unreachable = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
  return unreachable ? kExitUnreachable : kExitRefused;
}

void PrintError(const absl::Status& status, bool json) {
  const std::string message(ErrorMessage(status));
  const std::string reason = ErrorReason(status);
  if (!json) {
    std::fputs(fmt::format("mnemosynectl: {} ({})\n", message, reason).c_str(), stderr);
    return;
  }
  const nlohmann::ordered_json error = {{"error",
                                         {{"code", absl::StatusCodeToString(status.code())},
                                          {"reason", reason},
                                          {"message", message},
                                          {"metadata", ErrorMetadata(status)}}}};
  std::fputs((error.dump(2) + "\n").c_str(), stderr);
}

}  // namespace mnemosyne::ctl
