#include "server/session/keeper_ledger.h"

#include <utility>

#include "base/error.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {

void KeeperLedger::Add(const std::shared_ptr<Session>& session, Clock::Monotonic now) {
  MutexLock lock(&mutex_);
  Entry& entry = entries_[std::string(session->id())];
  entry.session = session;
  entry.step = session->progress().last_step;
  entry.tried = now;
}

void KeeperLedger::Remove(const Session& session) {
  MutexLock lock(&mutex_);
  entries_.erase(std::string(session.id()));
}

std::optional<KeeperLedger::Entry> KeeperLedger::Find(const Session& session) const {
  MutexLock lock(&mutex_);
  const auto found = entries_.find(session.id());
  return found == entries_.end() ? std::nullopt : std::optional(found->second);
}

void KeeperLedger::Change(const Session& session, const std::function<void(Entry&)>& change) {
  MutexLock lock(&mutex_);
  const auto found = entries_.find(session.id());
  if (found != entries_.end()) change(found->second);
}

std::vector<std::shared_ptr<Session>> KeeperLedger::Alive() const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Session>> alive;
  for (const auto& [id, entry] : entries_) {
    if (auto session = entry.session.lock()) alive.push_back(std::move(session));
  }
  return alive;
}

int64_t KeeperLedger::SnapshotStep(const Session& session) const {
  MutexLock lock(&mutex_);
  const auto found = entries_.find(session.id());
  return found == entries_.end() ? 0 : found->second.step;
}

bool KeeperLedger::IsBehind(const Session& session) const {
  const int64_t step = session.progress().last_step;
  MutexLock lock(&mutex_);
  const auto found = entries_.find(session.id());
  return found != entries_.end() && (found->second.step != step || found->second.new_rules);
}

void KeeperLedger::NoteFailure(const absl::Status& status, Session& session,
                               std::string_view words) {
  Log(spdlog::level::err, words,
      {{"session", session.name()},
       {"reason", ErrorReason(status)},
       {"detail", ErrorMessage(status)}});
  session.ReportDurabilityError(ErrorReason(status));
  MutexLock lock(&mutex_);
  ++health_.failure_count;
  health_.error = ErrorReason(status);
}

void KeeperLedger::Count(const std::function<void(KeeperHealth&)>& change) {
  MutexLock lock(&mutex_);
  change(health_);
}

KeeperHealth KeeperLedger::health() const {
  // Sessions are let go of without the lock: one of them may end here.
  const std::vector<std::shared_ptr<Session>> sessions = Alive();
  MutexLock lock(&mutex_);
  KeeperHealth health = health_;
  for (const auto& session : sessions) {
    const Session::Tier tier = session->tier();
    ++(tier == Session::Tier::kResident ? health.resident_count
       : tier == Session::Tier::kParked ? health.parked_count
                                        : health.on_disk_count);
  }
  return health;
}

}  // namespace mnemosyne::server
