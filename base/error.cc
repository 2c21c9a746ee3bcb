#include "base/error.h"

#include "absl/strings/cord.h"

namespace mnemosyne {
namespace {

constexpr std::string_view kReasonUrl = "mnemosyne/reason";
constexpr std::string_view kMetadataUrl = "mnemosyne/metadata/";

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::Status WithReason(absl::Status status, std::string_view reason) {
  status.SetPayload(Absl(kReasonUrl), absl::Cord(Absl(reason)));
  return status;
}

absl::Status WithMetadata(absl::Status status, std::string_view key, std::string_view value) {
  status.SetPayload(Absl(std::string(kMetadataUrl).append(key)), absl::Cord(Absl(value)));
  return status;
}

absl::Status WithMoreWords(const absl::Status& status, std::string_view words) {
  absl::Status longer = MakeError(status.code(), std::string(ErrorMessage(status)).append(words));
  status.ForEachPayload(
      [&longer](absl::string_view url, const absl::Cord& value) { longer.SetPayload(url, value); });
  return longer;
}

std::string ErrorReason(const absl::Status& status) {
  const auto payload = status.GetPayload(Absl(kReasonUrl));
  return payload ? std::string(*payload) : absl::StatusCodeToString(status.code());
}

std::map<std::string, std::string> ErrorMetadata(const absl::Status& status) {
  std::map<std::string, std::string> metadata;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& value) {
    const std::string_view key(url.data(), url.size());
    if (key.starts_with(kMetadataUrl)) {
      metadata.emplace(key.substr(kMetadataUrl.size()), std::string(value));
    }
  });
  return metadata;
}

}  // namespace mnemosyne
