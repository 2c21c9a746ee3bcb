#include "server/security/tls_keeper.h"

#include <chrono>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

int64_t DaysLeft(const TlsMaterial& material, Clock::Time now) {
  return std::chrono::duration_cast<std::chrono::hours>(material.not_after - now).count() / 24;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TlsKeeper>> TlsKeeper::Load(TlsPaths paths, const Clock& clock) {
  std::unique_ptr<TlsKeeper> keeper(new TlsKeeper(std::move(paths), clock));
  MNEMO_ASSIGN_OR_RETURN(TlsMaterial material, ReadTlsFiles(keeper->paths_));
  MNEMO_RETURN_IF_ERROR(CheckTlsMaterial(material, clock.Now()));
  MutexLock lock(&keeper->mutex_);
  keeper->current_ = {std::make_shared<const TlsMaterial>(std::move(material)), 1};
  return keeper;
}

void TlsKeeper::Reload() {
  MutexLock reload(&reload_mutex_);
  auto material = ReadTlsFiles(paths_);
  if (!material.ok()) return Refuse(material.status());
  if (material->SameBytes(*current().material)) {
    last_refusal_.clear();
    return;
  }
  if (const absl::Status status = CheckTlsMaterial(*material, clock_.Now()); !status.ok()) {
    return Refuse(status);
  }
  last_refusal_.clear();
  Log(spdlog::level::info, "tls files reloaded",
      {{"days_left", DaysLeft(*material, clock_.Now())}});
  MutexLock lock(&mutex_);
  current_ = {std::make_shared<const TlsMaterial>(*std::move(material)), current_.number + 1};
}

void TlsKeeper::Refuse(const absl::Status& status) {
  const std::string message(ErrorMessage(status));
  if (message == std::exchange(last_refusal_, message)) return;
  Log(spdlog::level::warn, "tls files refused, the old ones are kept", {{"detail", message}});
}

TlsKeeper::Current TlsKeeper::current() const {
  MutexLock lock(&mutex_);
  return current_;
}

}  // namespace mnemosyne::server
