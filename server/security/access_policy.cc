#include "server/security/access_policy.h"

#include <openssl/crypto.h>
#include <unistd.h>

#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "proto/codec/access_token.h"
#include "server/security/small_file.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

constexpr size_t kFileBytesMax = size_t{4} << 20;
constexpr std::string_view kBearer = "Bearer ";

absl::StatusOr<AccessTable> ReadTable(const std::string& path, const TenantLimits& defaults) {
  MNEMO_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kFileBytesMax, "--access"));
  return ParseAccessFile(text, defaults);
}

absl::Status WrongCredentials() {
  return WithReason(MakeError(absl::StatusCode::kUnauthenticated,
                              "the access token is not known here, or has expired"),
                    "WRONG_CREDENTIALS");
}

absl::Status MissingCredentials() {
  return WithReason(
      MakeError(absl::StatusCode::kUnauthenticated,
                "this daemon asks who calls: send an access token as `authorization: Bearer ...`, "
                "or a certificate that it knows"),
      "CREDENTIALS_MISSING");
}

std::string TokenMeans(std::string_view id) { return fmt::format("token:{}", id); }
std::string CertificateMeans(std::string_view name) { return fmt::format("certificate:{}", name); }
std::string UserMeans(uint32_t uid) { return fmt::format("uid:{}", uid); }

// Every way in, by its means, with all that it depends on.
std::map<std::string, std::string> Ways(const AccessTable& table) {
  std::map<std::string, std::string> ways;
  const auto describe = [](const AccessRole& role) {
    return fmt::format("{} {}", role.tenant, role.admin);
  };
  for (const auto& [id, entry] : table.tokens) {
    ways[TokenMeans(id)] = fmt::format("{} {} {} {}", describe(entry.role), entry.salt,
                                       entry.sha256, entry.expires.time_since_epoch().count());
  }
  for (const auto& [name, role] : table.certificates) ways[CertificateMeans(name)] = describe(role);
  for (const auto& [uid, role] : table.users) ways[UserMeans(uid)] = describe(role);
  return ways;
}

}  // namespace

AccessPolicy::AccessPolicy(std::string path, const TenantLimits& defaults, const Clock& clock)
    : path_(std::move(path)), defaults_(defaults), clock_(clock), own_uid_(::geteuid()) {}

absl::StatusOr<std::unique_ptr<AccessPolicy>> AccessPolicy::Load(std::string path,
                                                                 const TenantLimits& defaults,
                                                                 const Clock& clock) {
  std::unique_ptr<AccessPolicy> policy(new AccessPolicy(std::move(path), defaults, clock));
  if (!policy->asks()) return policy;
  MNEMO_ASSIGN_OR_RETURN(AccessTable table, ReadTable(policy->path_, defaults));
  MutexLock lock(&policy->mutex_);
  policy->Replace(std::move(table));
  return policy;
}

void AccessPolicy::Reload() {
  if (!asks()) return;
  auto table = ReadTable(path_, defaults_);
  MutexLock lock(&mutex_);
  if (!table.ok()) {
    const std::string message(ErrorMessage(table.status()));
    if (message != std::exchange(last_refusal_, message)) {
      Log(spdlog::level::warn, "access file refused, the old one is kept", {{"detail", message}});
    }
    return;
  }
  last_refusal_.clear();
  Replace(*std::move(table));
}

void AccessPolicy::Replace(AccessTable table) {
  const auto before = Ways(table_);
  const auto after = Ways(table);
  std::map<std::string, Revoked> revoked;
  for (const auto& [means, way] : after) {
    const auto known = before.find(means);
    const bool same = known != before.end() && known->second == way;
    revoked[means] = same ? revoked_[means] : std::make_shared<std::atomic<bool>>(false);
  }
  size_t gone = 0;
  for (const auto& [means, flag] : revoked_) {
    if (const auto kept = revoked.find(means); kept == revoked.end() || kept->second != flag) {
      flag->store(true);
      ++gone;
    }
  }
  const bool changed = before != after;
  table_ = std::move(table);
  revoked_ = std::move(revoked);
  if (changed) {
    Log(spdlog::level::info, "access file read", {{"ways", revoked_.size()}, {"revoked", gone}});
  }
}

Caller AccessPolicy::MakeCaller(const AccessRole& role, const std::string& means) const {
  const auto found = revoked_.find(means);
  return {.tenant = role.tenant,
          .admin = role.admin,
          .means = means,
          .revoked = found == revoked_.end() ? nullptr : found->second};
}

absl::StatusOr<Caller> AccessPolicy::IdentifyByToken(std::string_view authorization) const {
  if (!authorization.starts_with(kBearer)) return WrongCredentials();
  const auto token = codec::ParseAccessToken(authorization.substr(kBearer.size()));
  if (!token) return WrongCredentials();
  const auto found = table_.tokens.find(token->id);
  if (found == table_.tokens.end()) return WrongCredentials();
  const AccessTokenEntry& entry = found->second;
  const std::string hash = codec::HashSecret(entry.salt, token->secret);
  if (hash.size() != entry.sha256.size() ||
      CRYPTO_memcmp(hash.data(), entry.sha256.data(), hash.size()) != 0 ||
      clock_.Now() >= entry.expires) {
    return WrongCredentials();
  }
  Caller caller = MakeCaller(entry.role, TokenMeans(token->id));
  caller.expires = entry.expires;
  return caller;
}

absl::StatusOr<Caller> AccessPolicy::Identify(const Evidence& evidence) const {
  if (!asks()) return Caller();
  MutexLock lock(&mutex_);
  if (evidence.authorization) return IdentifyByToken(*evidence.authorization);
  for (const std::string_view name : evidence.certificate_names) {
    if (const auto found = table_.certificates.find(name); found != table_.certificates.end()) {
      return MakeCaller(found->second, CertificateMeans(name));
    }
  }
  if (evidence.uid) {
    if (const auto found = table_.users.find(*evidence.uid); found != table_.users.end()) {
      return MakeCaller(found->second, UserMeans(*evidence.uid));
    }
    if (IsOperator(*evidence.uid)) {
      return Caller{.tenant = "", .admin = true, .means = UserMeans(*evidence.uid)};
    }
  }
  return MissingCredentials();
}

TenantLimits AccessPolicy::LimitsOf(std::string_view tenant) const {
  MutexLock lock(&mutex_);
  const auto found = table_.limits.find(tenant);
  return found == table_.limits.end() ? defaults_ : found->second;
}

bool AccessPolicy::AdmitsUser(uint32_t uid) const {
  if (IsOperator(uid)) return true;
  MutexLock lock(&mutex_);
  return table_.users.contains(uid);
}

bool AccessPolicy::HasUsers() const {
  MutexLock lock(&mutex_);
  return !table_.users.empty();
}

}  // namespace mnemosyne::server
