// Who a caller is, by the access file, which may change while the daemon runs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/security/access_file.h"
#include "server/security/caller.h"

namespace mnemosyne::server {

// What a caller shows of itself.
struct Evidence {
  std::optional<std::string_view> authorization = std::nullopt;  // The metadata of that name.
  std::vector<std::string_view> certificate_names = {};  // Of a certificate that has been verified.
  std::optional<uint32_t> uid = std::nullopt;  // Of the process on the other end of a socket.
};

// Thread-safe.
class AccessPolicy {
 public:
  // Reads the access file at `path`. Without a path nobody is asked for anything.
  // FailedPrecondition or InvalidArgument for a file that cannot be read or understood.
  static absl::StatusOr<std::unique_ptr<AccessPolicy>> Load(std::string path,
                                                            const TenantLimits& defaults,
                                                            const Clock& clock);

  // Reads the file again. One that cannot be understood is logged once and changes nothing. What
  // callers were identified by and is not there any more is revoked.
  void Reload();

  // A token counts before a certificate, and a certificate before a uid. The daemon's own user and
  // root, who can read its memory, are its operator: an admin, unless the file says otherwise.
  //
  // Unauthenticated with reason CREDENTIALS_MISSING, or WRONG_CREDENTIALS for a token that is not
  // in the file or has expired.
  absl::StatusOr<Caller> Identify(const Evidence& evidence) const;

  TenantLimits LimitsOf(std::string_view tenant) const;

  // Whether anyone is asked for anything.
  bool asks() const { return !path_.empty(); }

  // Whether a process of `uid` may use the socket at all.
  bool AdmitsUser(uint32_t uid) const;

  // Whether the file names users of the machine.
  bool HasUsers() const;

 private:
  using Revoked = std::shared_ptr<std::atomic<bool>>;

  AccessPolicy(std::string path, const TenantLimits& defaults, const Clock& clock);

  bool IsOperator(uint32_t uid) const { return uid == own_uid_ || uid == 0; }

  void Replace(AccessTable table) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Caller> IdentifyByToken(std::string_view authorization) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Caller MakeCaller(const AccessRole& role, const std::string& means) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  const TenantLimits defaults_;
  const Clock& clock_;
  const uint32_t own_uid_;

  mutable Mutex mutex_;
  AccessTable table_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Revoked> revoked_ ABSL_GUARDED_BY(mutex_);  // By a caller's means.
  std::string last_refusal_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::server
