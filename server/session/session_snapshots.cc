#include "server/session/session_snapshots.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

using std::chrono::milliseconds;

// A turn, waited for at most `patience`; null if it does not come.
std::unique_ptr<Turnstile::Turn> AwaitTurn(Turnstile& turnstile, milliseconds patience) {
  if (patience == SessionSnapshots::kNoPatience) return turnstile.Try();
  struct Wait {
    Mutex mutex;
    bool given_up ABSL_GUARDED_BY(mutex) = false;
    std::unique_ptr<Turnstile::Turn> turn ABSL_GUARDED_BY(mutex);
  };
  const auto wait = std::make_shared<Wait>();
  const absl::Status asked = turnstile.Ask([wait](std::unique_ptr<Turnstile::Turn> turn) {
    MutexLock lock(&wait->mutex);
    if (!wait->given_up) wait->turn = std::move(turn);
  });
  if (!asked.ok()) return nullptr;
  MutexLock lock(&wait->mutex);
  lock.AwaitFor(patience, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return wait->turn != nullptr; });
  wait->given_up = wait->turn == nullptr;
  return std::move(wait->turn);
}

}  // namespace

absl::Status BusySession() {
  return WithReason(Unavailable("the session is in the middle of a step; try again"), "BUSY");
}

SessionSnapshots::SessionSnapshots(StateFolder& folder, const KeeperOptions& options,
                                   KeeperLedger& ledger, const Clock& clock)
    : folder_(folder),
      options_(options),
      ledger_(ledger),
      clock_(clock),
      disk_(options.tenant_disk_bytes_max, options.disk_bytes_max),
      writing_(std::make_shared<Turnstile>()) {}

std::unique_ptr<Turnstile::Turn> SessionSnapshots::AwaitWriting() {
  std::unique_ptr<Turnstile::Turn> writing;
  while (writing == nullptr) writing = AwaitTurn(*writing_, kPatience);
  return writing;
}

absl::StatusOr<SessionSnapshots::Turns> SessionSnapshots::AwaitBoth(Session& session,
                                                                    milliseconds patience) {
  const Clock::Monotonic end = clock_.MonotonicNow() + patience;
  while (true) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - clock_.MonotonicNow());
    Turns turns;
    turns.session = AwaitTurn(session.turnstile(), std::max(left, kNoPatience));
    if (turns.session == nullptr) return BusySession();
    turns.writing = writing_->Try();
    if (turns.writing != nullptr) return turns;
    turns.session.reset();
    turns.writing = AwaitWriting();
    turns.session = session.turnstile().Try();
    if (turns.session != nullptr) return turns;
  }
}

void SessionSnapshots::CountDisk() {
  if (const auto writing = writing_->Try(); writing != nullptr) CountDiskInTurn();
}

void SessionSnapshots::CountDiskInTurn() {
  DiskQuota::BytesByTenant bytes;
  for (const auto& session : ledger_.Alive()) {
    if (!disk_.Bounds(session->tenant())) continue;
    bytes[session->tenant()] += FolderOf(*session).ByteCount();
  }
  // All has sessions, too, that could not be restored.
  const int64_t all = options_.disk_bytes_max == 0 ? 0 : folder_.ByteCount();
  disk_.Counted(std::move(bytes), all);
}

// Room for one more snapshot of the session, within the bounds.
absl::Status SessionSnapshots::TakeDisk(const Session& session) {
  CountDiskInTurn();
  return disk_.Take(session.tenant(), session.state_bytes());
}

absl::Status SessionSnapshots::Take(const std::shared_ptr<Session>& session, const std::string& pin,
                                    milliseconds patience, int64_t step) {
  MNEMO_RETURN_IF_ERROR(session->CheckUsable());
  std::unique_ptr<Turnstile::Turn> writing;
  if (session->in_memory() && ledger_.IsBehind(*session)) {
    // Its pages are touched here, before any step has to wait.
    CaptureBuffer buffer(session->state_bytes(), options_.buffer_bytes);
    auto turns = AwaitBoth(*session, patience);
    ledger_.Change(*session,
                   [&](KeeperLedger::Entry& kept) { kept.tried = clock_.MonotonicNow(); });
    MNEMO_RETURN_IF_ERROR(turns.status());
    writing = std::move(turns->writing);
    if (session->in_memory()) {
      MNEMO_RETURN_IF_ERROR(TakeInTurn(session, std::move(turns->session), buffer));
    }
  } else {
    writing = AwaitWriting();
  }
  const int64_t taken = ledger_.SnapshotStep(*session);
  if (step != 0 && taken != step) {
    return WithMetadata(
        WithReason(FailedPrecondition("the snapshot is of step {}, not of step {}", taken, step),
                   "NOT_AT_STEP"),
        "last_step", std::to_string(taken));
  }
  return pin.empty() ? absl::OkStatus() : FolderOf(*session).Pin(pin);
}

absl::Status SessionSnapshots::TakeInTurn(const std::shared_ptr<Session>& session,
                                          std::unique_ptr<Turnstile::Turn> turn,
                                          CaptureBuffer& buffer) {
  MNEMO_RETURN_IF_ERROR(session->CheckUsable());
  const SessionFolder folder = FolderOf(*session);
  const absl::Status room = TakeDisk(*session);
  // From here on other rules are newer than the snapshot.
  bool had_new_rules = false;
  ledger_.Change(*session, [&](KeeperLedger::Entry& kept) {
    had_new_rules = std::exchange(kept.new_rules, false);
  });
  const auto report = room.ok() ? TakeSnapshot(session, std::move(turn), folder, buffer)
                                : absl::StatusOr<SnapshotReport>(room);
  if (!report.ok()) {
    ledger_.Change(*session, [&](KeeperLedger::Entry& kept) { kept.new_rules |= had_new_rules; });
    if (session->CheckUsable().ok())
      ledger_.NoteFailure(report.status(), *session, "snapshot failed");
    return report.status();
  }
  const int64_t step = report->generation.step;
  ledger_.Change(*session, [&](KeeperLedger::Entry& kept) {
    kept.step = step;
    kept.log_bytes = 0;
  });
  ledger_.Count([&](KeeperHealth& health) {
    ++health.snapshot_count;
    health.last_snapshot_seconds = report->total_seconds;
    health.last_held_seconds = report->held_seconds;
    health.error.clear();
  });
  // Steps that were logged meanwhile are durable already.
  const bool logged = session->spec().durability == Durability::kStep;
  session->ReportDurable(logged ? std::max(step, session->progress().last_durable_step) : step);
  folder.Prune(options_.generations);
  Log(spdlog::level::info, "snapshot taken",
      {{"session", session->name()},
       {"generation", report->generation.number},
       {"step", step},
       {"bytes", report->byte_count},
       {"held_seconds", report->held_seconds},
       {"seconds", report->total_seconds}});
  return absl::OkStatus();
}

}  // namespace mnemosyne::server
