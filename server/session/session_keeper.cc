#include "server/session/session_keeper.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/session/device_call.h"
#include "server/session/snapshot_taker.h"
#include "server/session/state_loader.h"
#include "server/store/snapshot_file.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLookPeriod(500);
constexpr milliseconds kLongPeriod(10'000);
constexpr milliseconds kCountPeriod(5'000);  // Of counting what is on the disk.
constexpr milliseconds kPatience = SessionSnapshots::kPatience;
constexpr milliseconds kRulesPatience(1'000);
constexpr double kRestSeconds = 5;  // After a snapshot that failed.
constexpr size_t kExpiredKept = 64;
constexpr int kWriterNiceness = 5;

// Whether something that happens after `limit` seconds, or never if that is 0, is to happen.
bool IsOver(double seconds, int64_t limit) {
  return limit > 0 && seconds >= static_cast<double>(limit);
}

}  // namespace

SessionKeeper::SessionKeeper(std::unique_ptr<StateFolder> folder, KeeperOptions options,
                             MemoryBudget& budget, const DeviceSet& devices, const Clock& clock)
    : folder_(std::move(folder)),
      options_(std::move(options)),
      clock_(clock),
      snapshots_(*folder_, options_, ledger_, clock),
      mover_(*folder_, options_, budget, ledger_, snapshots_, devices, clock),
      syncer_("mnemo-sync", nullptr, kLongPeriod),
      loader_("mnemo-load", nullptr, kLongPeriod),
      writer_(
          "mnemo-snapshot", [this] { LookAfterAll(); }, kLookPeriod) {
  // Steps come first where cores are few.
  writer_.Submit([] {
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), kWriterNiceness);
  });
}

SessionKeeper::~SessionKeeper() {
  writer_.Stop();
  loader_.Stop();
  syncer_.Stop();
}

void SessionKeeper::OnExpired(Expired expired) {
  MutexLock lock(&mutex_);
  expired_ = std::move(expired);
}

std::vector<SessionRecord> SessionKeeper::ReadAll() {
  std::vector<SessionRecord> records;
  for (const std::string& id : folder_->Sessions()) {
    const SessionFolder folder = folder_->Session(id);
    std::vector<std::string> passed_over;
    auto record = ReadRecord(folder, passed_over);
    for (const std::string& what : passed_over) {
      Log(spdlog::level::warn, "snapshot refused", {{"session", id}, {"detail", what}});
    }
    if (!record.ok()) {
      Log(spdlog::level::err, "session cannot be restored",
          {{"session", id}, {"detail", ErrorMessage(record.status())}});
      continue;
    }
    record->epoch = std::max(record->epoch, folder.ReadEpoch());
    records.push_back(*std::move(record));
  }
  std::ranges::sort(records, {}, &SessionRecord::create_nanoseconds);
  return records;
}

// Makes the step that was just logged durable. The step holds the turn, so that the log stays.
void SessionKeeper::Commit(Session& session) {
  StepLog& log = *session.state().log;
  if (const absl::Status synced = log.Sync(); !synced.ok()) {
    return ledger_.NoteFailure(synced, session, "a step cannot be made durable");
  }
  if (ledger_.SnapshotStep(session) == KeeperLedger::kNoStep) return;
  session.ReportDurable(session.state().last_step);
  ledger_.Change(session, [&](KeeperLedger::Entry& known) { known.log_bytes = log.byte_count(); });
}

void SessionKeeper::Adopt(const std::shared_ptr<Session>& session) {
  const std::weak_ptr<Session> weak = session;
  Session::Hooks hooks;
  hooks.commit = [this, weak](std::function<void()> then) {
    FAIL_POINT("commit.queue");
    syncer_.Submit([this, weak, then = std::move(then)] {
      if (const auto alive = weak.lock()) Commit(*alive);
      FAIL_POINT("commit.done");
      then();
    });
  };
  hooks.taken = [this, weak](int64_t epoch) {
    syncer_.Submit([this, weak, epoch] {
      const auto alive = weak.lock();
      if (alive == nullptr || !alive->CheckUsable().ok()) return;
      const absl::Status stored = FolderOf(*alive).StoreEpoch(epoch);
      if (!stored.ok() && alive->CheckUsable().ok()) {
        ledger_.NoteFailure(stored, *alive, "epoch not stored");
      }
    });
  };
  hooks.stepped = [this, weak] {
    if (options_.snapshot_steps == 0) return;
    const auto alive = weak.lock();
    if (alive == nullptr) return;
    const int64_t behind = alive->progress().last_step - ledger_.SnapshotStep(*alive);
    if (behind >= options_.snapshot_steps) writer_.WakeUp();
  };
  session->SetHooks(std::move(hooks));
  session->ReportDurable(session->progress().last_step);
  ledger_.Add(session, clock_.MonotonicNow());
}

absl::Status SessionKeeper::StartKeeping(Session& session) {
  const SessionFolder folder = FolderOf(session);
  MNEMO_RETURN_IF_ERROR(folder.Make());
  MNEMO_RETURN_IF_ERROR(WriteFirstGeneration(session, folder));
  return session.resident() ? mover_.OpenLog(session) : absl::OkStatus();
}

void SessionKeeper::KeepNew(const std::shared_ptr<Session>& session, Done done) {
  Adopt(session);
  loader_.Submit([this, session, done = std::move(done)] {
    FAIL_POINT("create.keep");
    const absl::Status status = StartKeeping(*session);
    if (!status.ok()) ledger_.NoteFailure(status, *session, "session cannot be kept");
    FAIL_POINT("create.kept");
    done(status);
  });
}

absl::Status SessionKeeper::KeepModel(std::string_view hash, std::span<const std::byte> file) {
  return folder_->KeepModel(hash, file);
}

std::optional<std::filesystem::path> SessionKeeper::FindModel(std::string_view hash) const {
  return folder_->FindModel(hash);
}

void SessionKeeper::Load(std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn,
                         TurnCallback ready) {
  // A task must be copyable, a turn is not.
  auto shared = std::make_shared<std::unique_ptr<Turnstile::Turn>>(std::move(turn));
  loader_.Submit([this, session = std::move(session), shared, ready = std::move(ready)] {
    const absl::Status status = mover_.Load(session);
    if (status.ok()) return ready(std::move(*shared));
    shared->reset();
    ready(status);
  });
}

void SessionKeeper::MakeRoom(const MemoryAmounts& amounts, Done done) {
  loader_.Submit([this, amounts, done = std::move(done)] {
    // The room is free before anybody is told of it.
    const absl::Status status = mover_.FreeRoom(amounts, /*for_whom=*/nullptr).status();
    done(status);
  });
}

absl::Status SessionKeeper::ReplaceKept(const std::shared_ptr<Session>& session,
                                        std::unique_ptr<Turnstile::Turn> turn) {
  const std::unique_ptr<Turnstile::Turn> writing = snapshots_.AwaitWriting();
  CaptureBuffer buffer(session->state_bytes(), options_.buffer_bytes);
  absl::Status status = snapshots_.TakeInTurn(session, std::move(turn), buffer);
  const SessionFolder folder = FolderOf(*session);
  const std::vector<Generation> generations = folder.Generations();
  if (status.ok()) {
    if (!generations.empty()) folder.RemoveLogsBefore(generations.front().number);
  } else if (session->CheckUsable().ok()) {
    for (const Generation& generation : generations) folder.SetAside(generation);
    ledger_.Change(*session,
                   [](KeeperLedger::Entry& known) { known.step = KeeperLedger::kNoStep; });
    session->ReportDurable(0, ErrorReason(status));
  }
  return status;
}

void SessionKeeper::KeepReplaced(std::shared_ptr<Session> session,
                                 std::unique_ptr<Turnstile::Turn> turn, Done done) {
  auto shared = std::make_shared<std::unique_ptr<Turnstile::Turn>>(std::move(turn));
  loader_.Submit([this, session = std::move(session), shared, done = std::move(done)] {
    done(ReplaceKept(session, std::move(*shared)));
  });
}

void SessionKeeper::Snapshot(const std::shared_ptr<Session>& session, std::string pin, int64_t step,
                             std::function<void(absl::StatusOr<int64_t>)> done) {
  writer_.Submit([this, session, pin = std::move(pin), step, done = std::move(done)] {
    const absl::Status status = snapshots_.Take(session, pin, kPatience, step);
    if (!status.ok()) return done(status);
    done(ledger_.SnapshotStep(*session));
  });
}

void SessionKeeper::KeepRules(const std::shared_ptr<Session>& session, Done done) {
  ledger_.Change(*session, [](KeeperLedger::Entry& known) { known.new_rules = true; });
  writer_.Submit([this, session, done = std::move(done)] {
    FAIL_POINT("rules.keep");
    const absl::Status status = snapshots_.Take(session, {}, kRulesPatience);
    FAIL_POINT("rules.kept");
    done(status);
  });
}

absl::Status SessionKeeper::RewindNow(const std::shared_ptr<Session>& session,
                                      const std::string& pin) {
  std::unique_ptr<Turnstile::Turn> writing = snapshots_.AwaitWriting();
  const SessionFolder folder = FolderOf(*session);
  MNEMO_ASSIGN_OR_RETURN(const std::filesystem::path path, folder.FindPin(pin));
  MNEMO_ASSIGN_OR_RETURN(auto reader, SnapshotReader::Open(path));
  MNEMO_ASSIGN_OR_RETURN(const SessionRecord record, RecordFromJson(reader->texts().at("session")));
  FAIL_POINT("rewind.begin");
  MNEMO_ASSIGN_OR_RETURN(const Generation generation, folder.Rewind(pin, record.step));
  // Steps that were logged before belong to a future that is given up.
  folder.RemoveLogsBefore(generation.number);
  MNEMO_RETURN_IF_ERROR(CallDevice(session->executor(), [&](StepExecutor::Device&) {
    session->Unload();
    return absl::OkStatus();
  }));
  writing.reset();  // To make room others may have to be written.
  return mover_.Load(session);
}

void SessionKeeper::Rewind(std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn,
                           std::string pin, Done done) {
  auto shared = std::make_shared<std::unique_ptr<Turnstile::Turn>>(std::move(turn));
  loader_.Submit(
      [this, session = std::move(session), shared, pin = std::move(pin), done = std::move(done)] {
        const absl::Status status = RewindNow(session, pin);
        shared->reset();
        done(status);
      });
}

void SessionKeeper::Forget(const Session& session) {
  ledger_.Remove(session);
  FolderOf(session).Remove();
}

size_t SessionKeeper::SnapshotAll(Clock::Monotonic deadline) {
  {
    MutexLock lock(&mutex_);
    draining_ = true;
  }
  FAIL_POINT("drain.begin");
  size_t left = 0;
  for (const auto& session : ledger_.Alive()) {
    if (!session->in_memory() || !ledger_.IsBehind(*session)) continue;
    const auto patience =
        std::chrono::duration_cast<milliseconds>(deadline - clock_.MonotonicNow());
    if (patience <= SessionSnapshots::kNoPatience) {
      ++left;
      continue;
    }
    if (!snapshots_.Take(session, {}, patience).ok()) ++left;
    FAIL_POINT("drain.session");
  }
  return left;
}

bool SessionKeeper::draining() const {
  MutexLock lock(&mutex_);
  return draining_;
}

bool SessionKeeper::SnapshotIsDue(const Session& session, const KeeperLedger::Entry& known) const {
  if (!session.in_memory() || !ledger_.IsBehind(session)) return false;
  const Session::Progress progress = session.progress();
  const double since = Seconds(clock_.MonotonicNow() - known.tried);
  // After a failure, not more often than once in a while.
  if (!progress.durability_error.empty() && since < kRestSeconds) return false;
  const bool by_steps =
      options_.snapshot_steps > 0 && progress.last_step - known.step >= options_.snapshot_steps;
  // A snapshot makes durable what a log that is full or broken does not, and starts another.
  const bool log_failed =
      session.spec().durability == Durability::kStep && !progress.durability_error.empty();
  return by_steps || log_failed || IsOver(since, options_.snapshot_seconds) ||
         known.log_bytes > options_.log_bytes_max || known.step == KeeperLedger::kNoStep;
}

void SessionKeeper::Expire(const std::shared_ptr<Session>& session) {
  if (!mover_.SendToDisk(session).ok()) return;
  const absl::Status moved = folder_->Expire(session->id(), kExpiredKept);
  if (!moved.ok()) return ledger_.NoteFailure(moved, *session, "session cannot expire");
  Log(spdlog::level::info, "session expired", {{"session", session->name()}});
  ledger_.Remove(*session);
  Expired expired;
  {
    MutexLock lock(&mutex_);
    expired = expired_;
  }
  if (expired) expired(session);
}

void SessionKeeper::LookAfter(const std::shared_ptr<Session>& session) {
  if (!session->CheckUsable().ok()) return;
  const auto known = ledger_.Find(*session);
  if (!known) return;
  if (session->resident() && !session->executor().fault().ok()) {
    const std::unique_ptr<Turnstile::Turn> turn = session->turnstile().Try();
    if (turn != nullptr && session->resident()) (void)mover_.LeaveFaulted(session);
    return;
  }
  const double idle = Seconds(clock_.MonotonicNow() - session->touched());
  if (SnapshotIsDue(*session, *known)) (void)snapshots_.Take(session, {}, kPatience);
  if (IsOver(idle, options_.idle_seconds)) {
    (void)mover_.SendToDisk(session);
  } else if (IsOver(idle, options_.park_seconds)) {
    (void)mover_.SendToHost(session);
  }
  if (IsOver(idle, options_.expire_seconds) && !session->progress().held) Expire(session);
}

// Takes the snapshots that are due, and sends away who is idle. On the writer's thread.
void SessionKeeper::LookAfterAll() {
  if (clock_.MonotonicNow() - disk_counted_ >= kCountPeriod) {
    snapshots_.CountDisk();
    disk_counted_ = clock_.MonotonicNow();
  }
  for (const auto& session : ledger_.Alive()) {
    if (draining()) return;
    LookAfter(session);
  }
}

}  // namespace mnemosyne::server
