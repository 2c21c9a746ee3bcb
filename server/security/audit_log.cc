#include "server/security/audit_log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

constexpr int64_t kStrangersPerMinute = 100;

std::string TimeText(Clock::Time time) {
  const auto milliseconds = std::chrono::floor<std::chrono::milliseconds>(time);
  const auto seconds = std::chrono::floor<std::chrono::seconds>(milliseconds);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
                     fmt::gmtime(Clock::Time::clock::to_time_t(seconds)),
                     (milliseconds - seconds).count());
}

std::string OutcomeText(const absl::Status& status) {
  return status.ok() ? "OK" : ErrorReason(status);
}

std::string Line(const nlohmann::ordered_json& event) {
  return event.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(std::string path, const Clock& clock) {
  std::unique_ptr<AuditLog> audit(new AuditLog(std::move(path), clock));
  MutexLock lock(&audit->mutex_);
  if (!audit->path_.empty()) MNEMO_RETURN_IF_ERROR(audit->OpenFile());
  return audit;
}

AuditLog::~AuditLog() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status AuditLog::OpenFile() {
  const int fd = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
                        S_IRUSR | S_IWUSR);
  if (fd < 0) return FailedPrecondition("--audit-log: cannot open: {}", std::strerror(errno));
  if (const int old = std::exchange(fd_, fd); old >= 0) ::close(old);
  return absl::OkStatus();
}

void AuditLog::Reopen() {
  MutexLock lock(&mutex_);
  if (path_.empty()) return;
  if (const absl::Status status = OpenFile(); !status.ok()) {
    Log(spdlog::level::warn, "audit log not reopened, the old file is kept",
        {{"detail", ErrorMessage(status)}});
  }
}

void AuditLog::Record(const Caller& caller, std::string_view peer, std::string_view action,
                      std::string_view session, const absl::Status& outcome) {
  MutexLock lock(&mutex_);
  if (fd_ < 0) return;
  nlohmann::ordered_json event = {{"time", TimeText(clock_.Now())},
                                  {"tenant", caller.tenant},
                                  {"means", caller.means},
                                  {"peer", peer},
                                  {"action", action},
                                  {"outcome", OutcomeText(outcome)}};
  if (!session.empty()) event["session"] = session;
  Write(Line(event));
}

void AuditLog::RecordStranger(std::string_view peer, std::string_view action,
                              const absl::Status& outcome) {
  MutexLock lock(&mutex_);
  if (fd_ < 0) return;
  const Clock::Monotonic now = clock_.MonotonicNow();
  if (now - minute_start_ >= std::chrono::minutes(1)) {
    minute_start_ = now;
    strangers_ = 0;
  }
  if (++strangers_ > kStrangersPerMinute) {
    ++suppressed_;
    return;
  }
  nlohmann::ordered_json event = {{"time", TimeText(clock_.Now())},
                                  {"peer", peer},
                                  {"action", action},
                                  {"outcome", OutcomeText(outcome)}};
  if (const int64_t suppressed = std::exchange(suppressed_, 0); suppressed > 0) {
    event["suppressed"] = suppressed;
  }
  Write(Line(event));
}

void AuditLog::Write(const std::string& line) {
  const bool written = ::write(fd_, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  if (!written && !std::exchange(failed_, true)) {
    Log(spdlog::level::err, "audit log cannot be written", {{"detail", std::strerror(errno)}});
  }
  if (written) failed_ = false;
}

}  // namespace mnemosyne::server
