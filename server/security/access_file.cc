#include "server/security/access_file.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::server {
namespace {

constexpr size_t kNameBytesMax = 64;
constexpr size_t kCertificateNameBytesMax = 255;
constexpr size_t kIdDigits = 16;
constexpr size_t kSaltDigits = 32;
constexpr size_t kHashDigits = 64;

using Words = std::vector<std::string_view>;
using Values = std::map<std::string_view, std::string_view>;

Words SplitWords(std::string_view line) {
  Words words;
  size_t at = 0;
  while ((at = line.find_first_not_of(" \t\r", at)) != std::string_view::npos) {
    const size_t end = std::min(line.find_first_of(" \t\r", at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end;
  }
  return words;
}

// The words behind the first as keys and values; only keys that are `known`, each once.
absl::StatusOr<Values> SplitValues(const Words& words, const std::vector<std::string_view>& known) {
  Values values;
  for (size_t i = 1; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    if (equals == std::string_view::npos || equals == 0 || equals + 1 == words[i].size()) {
      return InvalidArgument("word {} is not of the form key=value", i + 1);
    }
    const auto key = std::ranges::find(known, words[i].substr(0, equals));
    if (key == known.end()) {
      return InvalidArgument("word {} has an unknown key; known are {}", i + 1,
                             fmt::join(known, ", "));
    }
    if (!values.emplace(*key, words[i].substr(equals + 1)).second) {
      return InvalidArgument("{} is given twice", *key);
    }
  }
  return values;
}

absl::StatusOr<std::string_view> Need(const Values& values, std::string_view key) {
  const auto found = values.find(key);
  if (found == values.end()) return InvalidArgument("{} is missing", key);
  return found->second;
}

bool IsNameByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_';
}

absl::StatusOr<std::string> Tenant(const Values& values) {
  MNEMO_ASSIGN_OR_RETURN(const std::string_view name, Need(values, "tenant"));
  if (name.size() > kNameBytesMax || !std::ranges::all_of(name, IsNameByte)) {
    return InvalidArgument("tenant: expected 1 to {} letters, digits and . - _", kNameBytesMax);
  }
  return std::string(name);
}

absl::StatusOr<AccessRole> Role(const Values& values) {
  AccessRole role;
  MNEMO_ASSIGN_OR_RETURN(role.tenant, Tenant(values));
  if (const auto found = values.find("role"); found != values.end()) {
    if (found->second != "admin" && found->second != "user") {
      return InvalidArgument("role: expected admin or user");
    }
    role.admin = found->second == "admin";
  }
  return role;
}

absl::StatusOr<std::string> Hex(const Values& values, std::string_view key, size_t digits) {
  MNEMO_ASSIGN_OR_RETURN(const std::string_view text, Need(values, key));
  const bool hex = std::ranges::all_of(
      text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (text.size() != digits || !hex) {
    return InvalidArgument("{}: expected {} digits of 0-9 a-f", key, digits);
  }
  return std::string(text);
}

std::optional<int64_t> Number(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) return std::nullopt;
  return number;
}

// A number with a unit of bytes, such as 8GiB.
std::optional<int64_t> ByteCount(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, int>, 5> kUnits = {
      {{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"B", 0}}};
  int shift = 0;
  for (const auto& [unit, bits] : kUnits) {
    if (!text.ends_with(unit)) continue;
    text.remove_suffix(unit.size());
    shift = bits;
    break;
  }
  const auto number = Number(text);
  if (!number || *number > (std::numeric_limits<int64_t>::max() >> shift)) return std::nullopt;
  return *number << shift;
}

absl::StatusOr<Clock::Time> Day(std::string_view text) {
  const auto bad = InvalidArgument("expires: expected a day as YYYY-MM-DD");
  if (text.size() != 10 || text[4] != '-' || text[7] != '-') return bad;
  const auto year = Number(text.substr(0, 4));
  const auto month = Number(text.substr(5, 2));
  const auto day = Number(text.substr(8, 2));
  if (!year || !month || !day) return bad;
  const std::chrono::year_month_day date{std::chrono::year(static_cast<int>(*year)),
                                         std::chrono::month(static_cast<unsigned>(*month)),
                                         std::chrono::day(static_cast<unsigned>(*day))};
  // Far enough for anyone, and within what the clock can count.
  constexpr int kFirstYear = 1970;
  constexpr int kLastYear = 2200;
  if (!date.ok() || *year < kFirstYear || *year > kLastYear) return bad;
  return Clock::Time(std::chrono::sys_days(date));
}

absl::Status AddToken(const Words& words, AccessTable& table) {
  MNEMO_ASSIGN_OR_RETURN(const Values values,
                         SplitValues(words, {"tenant", "role", "id", "salt", "sha256", "expires"}));
  AccessTokenEntry entry;
  MNEMO_ASSIGN_OR_RETURN(entry.role, Role(values));
  MNEMO_ASSIGN_OR_RETURN(const std::string id, Hex(values, "id", kIdDigits));
  MNEMO_ASSIGN_OR_RETURN(entry.salt, Hex(values, "salt", kSaltDigits));
  MNEMO_ASSIGN_OR_RETURN(entry.sha256, Hex(values, "sha256", kHashDigits));
  if (const auto found = values.find("expires"); found != values.end()) {
    MNEMO_ASSIGN_OR_RETURN(entry.expires, Day(found->second));
  }
  if (!table.tokens.emplace(id, std::move(entry)).second) {
    return InvalidArgument("id is that of a line above");
  }
  return absl::OkStatus();
}

absl::Status AddCertificate(const Words& words, AccessTable& table) {
  MNEMO_ASSIGN_OR_RETURN(const Values values, SplitValues(words, {"tenant", "role", "name"}));
  MNEMO_ASSIGN_OR_RETURN(AccessRole role, Role(values));
  MNEMO_ASSIGN_OR_RETURN(const std::string_view name, Need(values, "name"));
  if (name.size() > kCertificateNameBytesMax) {
    return InvalidArgument("name: has more than {} bytes", kCertificateNameBytesMax);
  }
  if (!table.certificates.emplace(name, std::move(role)).second) {
    return InvalidArgument("name is that of a line above");
  }
  return absl::OkStatus();
}

absl::Status AddUser(const Words& words, AccessTable& table) {
  MNEMO_ASSIGN_OR_RETURN(const Values values, SplitValues(words, {"tenant", "role", "uid"}));
  MNEMO_ASSIGN_OR_RETURN(AccessRole role, Role(values));
  MNEMO_ASSIGN_OR_RETURN(const std::string_view text, Need(values, "uid"));
  const auto uid = Number(text);
  // The largest one stands for no user at all.
  if (!uid || *uid >= std::numeric_limits<uint32_t>::max()) {
    return InvalidArgument("uid: expected the number of a user");
  }
  if (!table.users.emplace(static_cast<uint32_t>(*uid), std::move(role)).second) {
    return InvalidArgument("uid is that of a line above");
  }
  return absl::OkStatus();
}

absl::Status AddLimit(const Words& words, const TenantLimits& defaults, AccessTable& table) {
  using L = TenantLimits;
  constexpr std::array<std::pair<std::string_view, int64_t L::*>, 9> kFields = {
      {{"sessions", &L::sessions},
       {"memory", &L::memory_bytes},
       {"device-memory", &L::device_bytes},
       {"disk", &L::disk_bytes},
       {"parameters", &L::parameters},
       {"streams", &L::streams},
       {"inflight", &L::inflight_bytes},
       {"steps-per-second", &L::steps_per_second},
       {"sessions-per-minute", &L::creations_per_minute}}};
  std::vector<std::string_view> known = {"tenant"};
  for (const auto& field : kFields) known.push_back(field.first);
  MNEMO_ASSIGN_OR_RETURN(const Values values, SplitValues(words, known));
  MNEMO_ASSIGN_OR_RETURN(const std::string tenant, Tenant(values));
  TenantLimits limits = defaults;
  for (const auto& [key, field] : kFields) {
    const auto found = values.find(key);
    if (found == values.end()) continue;
    const bool bytes =
        key == "memory" || key == "device-memory" || key == "disk" || key == "inflight";
    const auto number = bytes ? ByteCount(found->second) : Number(found->second);
    if (!number) return InvalidArgument("{}: expected a number{}", key, bytes ? " of bytes" : "");
    limits.*field = *number;
  }
  if (!table.limits.emplace(tenant, limits).second) {
    return InvalidArgument("tenant has a limit line above");
  }
  return absl::OkStatus();
}

absl::Status AddLine(const Words& words, const TenantLimits& defaults, AccessTable& table) {
  if (words[0] == "token") return AddToken(words, table);
  if (words[0] == "certificate") return AddCertificate(words, table);
  if (words[0] == "user") return AddUser(words, table);
  if (words[0] == "limit") return AddLimit(words, defaults, table);
  return InvalidArgument("the first word is none of token, certificate, user, limit");
}

}  // namespace

absl::StatusOr<AccessTable> ParseAccessFile(std::string_view text, const TenantLimits& defaults) {
  // An editor that is in the middle of writing leaves a last line without its end.
  if (!text.empty() && text.back() != '\n') {
    return InvalidArgument("--access: the last line has no end; the file may be half-written");
  }
  AccessTable table;
  size_t number = 0;
  while (!text.empty()) {
    ++number;
    const size_t end = text.find('\n');
    const Words words = SplitWords(text.substr(0, end));
    text.remove_prefix(end + 1);
    if (words.empty() || words[0].starts_with('#')) continue;
    if (const absl::Status status = AddLine(words, defaults, table); !status.ok()) {
      return InvalidArgument("--access: line {}: {}", number, ErrorMessage(status));
    }
  }
  return table;
}

}  // namespace mnemosyne::server
