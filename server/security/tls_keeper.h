// The TLS files that the daemon serves with now. New ones take their place while it runs, but only
// if they are whole and fit together.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/security/tls_files.h"

namespace mnemosyne::server {

// Thread-safe. Connections that there are keep what they began with.
class TlsKeeper {
 public:
  // Material with a number that grows with each change.
  struct Current {
    std::shared_ptr<const TlsMaterial> material;
    uint64_t number = 0;
  };

  // Reads the files for the first time; errors as ReadTlsFiles and CheckTlsMaterial.
  static absl::StatusOr<std::unique_ptr<TlsKeeper>> Load(TlsPaths paths, const Clock& clock);

  // Reads them again. What cannot be served with is logged once and changes nothing.
  void Reload();

  Current current() const;

  // Whether clients' certificates are looked at.
  bool has_client_ca() const { return !paths_.client_ca.empty(); }

 private:
  TlsKeeper(TlsPaths paths, const Clock& clock) : paths_(std::move(paths)), clock_(clock) {}

  void Refuse(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(reload_mutex_);

  const TlsPaths paths_;
  const Clock& clock_;

  Mutex reload_mutex_;  // One reload at a time; current() does not wait for it.
  std::string last_refusal_ ABSL_GUARDED_BY(reload_mutex_);

  mutable Mutex mutex_;
  Current current_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::server
