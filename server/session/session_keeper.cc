#include "server/session/session_keeper.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/session/device_call.h"
#include "server/session/state_loader.h"
#include "server/store/snapshot_file.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLookPeriod(500);
constexpr milliseconds kCountPeriod(5'000);
constexpr milliseconds kPatience(10'000);  // Of a snapshot for its session's turn.
constexpr milliseconds kRulesPatience(1'000);
constexpr milliseconds kNoPatience(0);
constexpr milliseconds kBusyPause(5);  // Before sessions in the middle of a step are asked again.
constexpr size_t kExpiredKept = 64;
constexpr int kWriterNiceness = 5;

absl::Status Busy() {
  return WithReason(Unavailable("the session is in the middle of a step; try again"), "BUSY");
}

}  // namespace

SessionKeeper::Worker::Worker(const char* name, Task idle, milliseconds period)
    : idle_(std::move(idle)), period_(period), thread_([this] { Work(); }) {
  pthread_setname_np(thread_.native_handle(), name);
}

void SessionKeeper::Worker::Submit(Task task) {
  FAIL_POINT("keeper.submit");
  MutexLock lock(&mutex_);
  queue_.push_back(std::move(task));
}

void SessionKeeper::Worker::WakeUp() {
  MutexLock lock(&mutex_);
  awake_ = true;
}

void SessionKeeper::Worker::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void SessionKeeper::Worker::Work() {
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopped_ || awake_ || !queue_.empty();
  };
  while (true) {
    Task task;
    {
      MutexLock lock(&mutex_);
      lock.AwaitFor(period_, ready);
      awake_ = false;
      if (!queue_.empty()) {
        task = std::move(queue_.front());
        queue_.pop_front();
      } else if (stopped_) {
        return;
      }
    }
    if (task) {
      FAIL_POINT("keeper.take");
      task();
    } else if (idle_) {
      idle_();
    }
  }
}

SessionKeeper::SessionKeeper(std::unique_ptr<StateFolder> folder, KeeperOptions options,
                             MemoryBudget& budget, StepExecutor& executor, const Clock& clock)
    : folder_(std::move(folder)),
      options_(options),
      budget_(budget),
      executor_(executor),
      clock_(clock),
      disk_quota_(options_.tenant_disk_bytes_max, options_.disk_bytes_max),
      writing_(std::make_shared<Turnstile>()),
      syncer_("mnemo-sync", nullptr, milliseconds(10'000)),
      loader_("mnemo-load", nullptr, milliseconds(10'000)),
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

void SessionKeeper::Adopt(const std::shared_ptr<Session>& session) {
  const std::weak_ptr<Session> weak = session;
  Session::Hooks hooks;
  hooks.commit = [this, weak](std::function<void()> then) {
    FAIL_POINT("commit.queue");
    syncer_.Submit([this, weak, then = std::move(then)] {
      if (const auto alive = weak.lock()) {
        // The step holds the turn, so that the log and the state stay.
        const absl::Status synced = alive->state().log->Sync();
        if (synced.ok() && SnapshotStep(*alive) != kNoStep) {
          alive->ReportDurable(alive->state().last_step);
          const int64_t log_bytes = alive->state().log->byte_count();
          Remember(*alive, [&](Kept& kept) { kept.log_bytes = log_bytes; });
        } else if (!synced.ok()) {
          Note(synced, *alive, "a step cannot be made durable");
        }
      }
      FAIL_POINT("commit.done");
      then();
    });
  };
  hooks.taken = [this, weak](int64_t epoch) {
    syncer_.Submit([this, weak, epoch] {
      const auto alive = weak.lock();
      if (alive == nullptr || !alive->CheckUsable().ok()) return;
      const absl::Status stored = FolderOf(*alive).StoreEpoch(epoch);
      if (!stored.ok() && alive->CheckUsable().ok()) Note(stored, *alive, "epoch not stored");
    });
  };
  hooks.stepped = [this, weak] {
    if (options_.snapshot_steps == 0) return;
    const auto alive = weak.lock();
    if (alive == nullptr) return;
    const int64_t behind = alive->progress().last_step - SnapshotStep(*alive);
    if (behind >= options_.snapshot_steps) writer_.WakeUp();
  };
  session->SetHooks(std::move(hooks));
  session->ReportDurable(session->progress().last_step);
  MutexLock lock(&mutex_);
  Kept& kept = kept_[std::string(session->id())];
  kept.session = session;
  kept.step = session->progress().last_step;
  kept.tried = clock_.MonotonicNow();
}

void SessionKeeper::KeepNew(const std::shared_ptr<Session>& session, Done done) {
  Adopt(session);
  loader_.Submit([this, session, done = std::move(done)] {
    FAIL_POINT("create.keep");
    const SessionFolder folder = FolderOf(*session);
    absl::Status status = folder.Make();
    if (status.ok()) status = WriteFirstGeneration(*session, folder);
    if (status.ok() && session->resident()) status = OpenLog(*session);
    if (!status.ok()) Note(status, *session, "session cannot be kept");
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

// In the session's turn, or before anybody else knows it.
absl::Status SessionKeeper::OpenLog(Session& session) {
  SessionState& state = session.state();
  state.log.reset();
  state.logged_rules.reset();
  if (session.spec().durability != Durability::kStep) return absl::OkStatus();
  const SessionFolder folder = FolderOf(session);
  const std::vector<Generation> generations = folder.Generations();
  const std::vector<int64_t> logs = folder.Logs();
  int64_t number = generations.empty() ? 1 : generations.front().number;
  if (!logs.empty()) number = std::max(number, logs.back());
  MNEMO_ASSIGN_OR_RETURN(state.log, StepLog::Open(folder.LogOf(number)));
  // A log that no snapshot trims has an end, too, and leaves room for that snapshot.
  state.log->BoundTo(
      {.bytes_max = 2 * options_.log_bytes_max,
       .take = [this, tenant = session.tenant(), spare = session.state_bytes()](int64_t bytes) {
         return disk_quota_.Take(tenant, bytes, spare);
       }});
  return absl::OkStatus();
}

void SessionKeeper::Load(std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn,
                         TurnCallback ready) {
  // A task must be copyable, a turn is not.
  auto shared = std::make_shared<std::unique_ptr<Turnstile::Turn>>(std::move(turn));
  loader_.Submit([this, session = std::move(session), shared, ready = std::move(ready)] {
    const absl::Status status = LoadNow(session);
    if (status.ok()) return ready(std::move(*shared));
    shared->reset();
    ready(status);
  });
}

absl::Status SessionKeeper::LoadNow(const std::shared_ptr<Session>& session) {
  MNEMO_RETURN_IF_ERROR(session->CheckUsable());
  auto reservation = budget_.Reserve(session->memory_bytes());
  if (!reservation.ok()) {
    reservation = FreeRoom(session->memory_bytes(), session.get());
    MNEMO_RETURN_IF_ERROR(reservation.status());
  }
  session->SetReservation(*std::move(reservation));
  auto report = LoadState(session, FolderOf(*session), executor_);
  if (!report.ok()) {
    (void)CallDevice(executor_, [&](StepExecutor::Device&) {
      session->Unload();
      return absl::OkStatus();
    });
    Note(report.status(), *session, "session cannot be loaded");
    return report.status();
  }
  for (const std::string& what : report->passed_over) {
    Log(spdlog::level::warn, "snapshot passed over",
        {{"session", session->name()}, {"detail", what}});
  }
  if (const absl::Status opened = OpenLog(*session); !opened.ok()) {
    Note(opened, *session, "steps cannot be logged");
  }
  session->Touch();
  session->ReportDurable(session->state().last_step);
  Log(spdlog::level::info, "session loaded",
      {{"session", session->name()},
       {"generation", report->generation.number},
       {"step", session->state().last_step},
       {"logged_steps", report->logged_steps},
       {"bytes", report->byte_count},
       {"seconds", report->seconds}});
  Remember(*session, [&](Kept& kept) {
    kept.step = report->generation.step;
    kept.new_rules = false;
  });
  MutexLock lock(&mutex_);
  ++health_.load_count;
  return absl::OkStatus();
}

void SessionKeeper::MakeRoom(int64_t bytes, Done done) {
  loader_.Submit([this, bytes, done = std::move(done)] {
    // The room is free before anybody is told of it.
    const absl::Status status = FreeRoom(bytes, /*for_whom=*/nullptr).status();
    done(status);
  });
}

absl::StatusOr<MemoryBudget::Reservation> SessionKeeper::FreeRoom(int64_t bytes,
                                                                  const Session* for_whom) {
  const Clock::Monotonic end = clock_.MonotonicNow() + kPatience;
  const auto has_room = [&] { return budget_.bytes_max() - budget_.bytes_reserved() >= bytes; };
  bool may_help = bytes <= budget_.bytes_max();
  auto reservation = budget_.Reserve(bytes);
  while (!reservation.ok() && may_help) {
    may_help = false;
    std::vector<std::shared_ptr<Session>> idle = Alive();
    std::ranges::sort(idle, {}, [](const auto& session) { return session->touched(); });
    for (const auto& session : idle) {
      if (has_room()) break;
      if (session.get() == for_whom || !session->resident()) continue;
      // One that is in a step can go after it.
      if (ErrorReason(Evict(session)) == "BUSY") may_help = clock_.MonotonicNow() < end;
    }
    reservation = budget_.Reserve(bytes);
    if (!reservation.ok() && may_help) std::this_thread::sleep_for(kBusyPause);
  }
  return reservation;
}

std::unique_ptr<Turnstile::Turn> SessionKeeper::AwaitTurn(Turnstile& turnstile,
                                                          milliseconds patience) {
  if (patience == kNoPatience) return turnstile.Try();
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

std::unique_ptr<Turnstile::Turn> SessionKeeper::AwaitWriting() {
  std::unique_ptr<Turnstile::Turn> writing;
  while (writing == nullptr) writing = AwaitTurn(*writing_, kPatience);
  return writing;
}

absl::StatusOr<SessionKeeper::Turns> SessionKeeper::AwaitBoth(Session& session,
                                                              milliseconds patience) {
  const Clock::Monotonic end = clock_.MonotonicNow() + patience;
  while (true) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - clock_.MonotonicNow());
    Turns turns;
    turns.session = AwaitTurn(session.turnstile(), std::max(left, kNoPatience));
    if (turns.session == nullptr) return Busy();
    turns.writing = writing_->Try();
    if (turns.writing != nullptr) return turns;
    turns.session.reset();
    turns.writing = AwaitWriting();
    turns.session = session.turnstile().Try();
    if (turns.session != nullptr) return turns;
  }
}

void SessionKeeper::CountDisk() {
  DiskQuota::BytesByTenant bytes;
  for (const auto& session : Alive()) {
    if (!disk_quota_.Bounds(session->tenant())) continue;
    bytes[session->tenant()] += FolderOf(*session).ByteCount();
  }
  // All has sessions, too, that could not be restored.
  const int64_t all = options_.disk_bytes_max == 0 ? 0 : folder_->ByteCount();
  disk_quota_.Counted(std::move(bytes), all);
}

// Room for one more snapshot of the session, within the bounds.
absl::Status SessionKeeper::TakeDisk(const Session& session) {
  CountDisk();
  return disk_quota_.Take(session.tenant(), session.state_bytes());
}

absl::Status SessionKeeper::SnapshotNow(const std::shared_ptr<Session>& session,
                                        const std::string& pin, milliseconds patience,
                                        int64_t step) {
  MNEMO_RETURN_IF_ERROR(session->CheckUsable());
  std::unique_ptr<Turnstile::Turn> writing;
  if (session->resident() && IsBehind(*session)) {
    // Its pages are touched here, before any step has to wait.
    CaptureBuffer buffer(session->state_bytes(), options_.buffer_bytes);
    auto turns = AwaitBoth(*session, patience);
    Remember(*session, [&](Kept& kept) { kept.tried = clock_.MonotonicNow(); });
    MNEMO_RETURN_IF_ERROR(turns.status());
    writing = std::move(turns->writing);
    if (session->resident()) {
      MNEMO_RETURN_IF_ERROR(SnapshotInTurn(session, std::move(turns->session), buffer));
    }
  } else {
    writing = AwaitWriting();
  }
  const int64_t taken = SnapshotStep(*session);
  if (step != 0 && taken != step) {
    return WithMetadata(
        WithReason(FailedPrecondition("the snapshot is of step {}, not of step {}", taken, step),
                   "NOT_AT_STEP"),
        "last_step", std::to_string(taken));
  }
  return pin.empty() ? absl::OkStatus() : FolderOf(*session).Pin(pin);
}

absl::Status SessionKeeper::SnapshotInTurn(const std::shared_ptr<Session>& session,
                                           std::unique_ptr<Turnstile::Turn> turn,
                                           CaptureBuffer& buffer) {
  MNEMO_RETURN_IF_ERROR(session->CheckUsable());
  const SessionFolder folder = FolderOf(*session);
  const absl::Status room = TakeDisk(*session);
  // From here on other rules are newer than the snapshot.
  bool had_new_rules = false;
  Remember(*session, [&](Kept& kept) { had_new_rules = std::exchange(kept.new_rules, false); });
  const auto report = room.ok() ? TakeSnapshot(session, std::move(turn), folder, buffer, executor_)
                                : absl::StatusOr<SnapshotReport>(room);
  if (!report.ok()) {
    Remember(*session, [&](Kept& kept) { kept.new_rules |= had_new_rules; });
    if (session->CheckUsable().ok()) Note(report.status(), *session, "snapshot failed");
    return report.status();
  }
  const int64_t step = report->generation.step;
  Remember(*session, [&](Kept& kept) {
    kept.step = step;
    kept.log_bytes = 0;
  });
  {
    MutexLock lock(&mutex_);
    ++health_.snapshot_count;
    health_.last_snapshot_seconds = report->total_seconds;
    health_.last_held_seconds = report->held_seconds;
    health_.error.clear();
  }
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

absl::Status SessionKeeper::Evict(const std::shared_ptr<Session>& session) {
  if (!session->resident()) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(SnapshotNow(session, {}, kNoPatience));
  const std::unique_ptr<Turnstile::Turn> turn = session->turnstile().Try();
  // A step in between keeps it.
  if (turn == nullptr || IsBehind(*session)) return Busy();
  FAIL_POINT("evict");
  MNEMO_RETURN_IF_ERROR(CallDevice(executor_, [&](StepExecutor::Device&) {
    session->Unload();
    return absl::OkStatus();
  }));
  Log(spdlog::level::info, "session sent to disk",
      {{"session", session->name()}, {"bytes", session->memory_bytes()}});
  MutexLock lock(&mutex_);
  ++health_.eviction_count;
  return absl::OkStatus();
}

void SessionKeeper::KeepReplaced(std::shared_ptr<Session> session,
                                 std::unique_ptr<Turnstile::Turn> turn, Done done) {
  auto shared = std::make_shared<std::unique_ptr<Turnstile::Turn>>(std::move(turn));
  loader_.Submit([this, session = std::move(session), shared, done = std::move(done)] {
    absl::Status status;
    {
      const std::unique_ptr<Turnstile::Turn> writing = AwaitWriting();
      CaptureBuffer buffer(session->state_bytes(), options_.buffer_bytes);
      status = SnapshotInTurn(session, std::move(*shared), buffer);
      if (status.ok()) {
        const SessionFolder folder = FolderOf(*session);
        const std::vector<Generation> generations = folder.Generations();
        if (!generations.empty()) folder.RemoveLogsBefore(generations.front().number);
      } else if (session->CheckUsable().ok()) {
        const SessionFolder folder = FolderOf(*session);
        for (const Generation& generation : folder.Generations()) folder.SetAside(generation);
        Remember(*session, [](Kept& kept) { kept.step = kNoStep; });
        session->ReportDurable(0, ErrorReason(status));
      }
    }
    shared->reset();
    done(status);
  });
}

void SessionKeeper::Snapshot(const std::shared_ptr<Session>& session, std::string pin, int64_t step,
                             std::function<void(absl::StatusOr<int64_t>)> done) {
  writer_.Submit([this, session, pin = std::move(pin), step, done = std::move(done)] {
    const absl::Status status = SnapshotNow(session, pin, kPatience, step);
    if (!status.ok()) return done(status);
    done(SnapshotStep(*session));
  });
}

void SessionKeeper::KeepRules(const std::shared_ptr<Session>& session, Done done) {
  Remember(*session, [](Kept& kept) { kept.new_rules = true; });
  writer_.Submit([this, session, done = std::move(done)] {
    FAIL_POINT("rules.keep");
    const absl::Status status = SnapshotNow(session, {}, kRulesPatience);
    FAIL_POINT("rules.kept");
    done(status);
  });
}

void SessionKeeper::Rewind(std::shared_ptr<Session> session, std::unique_ptr<Turnstile::Turn> turn,
                           std::string pin, Done done) {
  auto shared = std::make_shared<std::unique_ptr<Turnstile::Turn>>(std::move(turn));
  loader_.Submit(
      [this, session = std::move(session), shared, pin = std::move(pin), done = std::move(done)] {
        const auto rewind = [&]() -> absl::Status {
          std::unique_ptr<Turnstile::Turn> writing = AwaitWriting();
          const SessionFolder folder = FolderOf(*session);
          MNEMO_ASSIGN_OR_RETURN(const std::filesystem::path path, folder.FindPin(pin));
          MNEMO_ASSIGN_OR_RETURN(auto reader, SnapshotReader::Open(path));
          MNEMO_ASSIGN_OR_RETURN(const SessionRecord record,
                                 RecordFromJson(reader->texts().at("session")));
          FAIL_POINT("rewind.begin");
          MNEMO_ASSIGN_OR_RETURN(const Generation generation, folder.Rewind(pin, record.step));
          // Steps that were logged before belong to a future that is given up.
          folder.RemoveLogsBefore(generation.number);
          MNEMO_RETURN_IF_ERROR(CallDevice(executor_, [&](StepExecutor::Device&) {
            session->Unload();
            return absl::OkStatus();
          }));
          writing.reset();  // To make room others may have to be written.
          return LoadNow(session);
        };
        const absl::Status status = rewind();
        shared->reset();
        done(status);
      });
}

void SessionKeeper::Forget(const Session& session) {
  {
    MutexLock lock(&mutex_);
    kept_.erase(std::string(session.id()));
  }
  FolderOf(session).Remove();
}

size_t SessionKeeper::SnapshotAll(Clock::Monotonic deadline) {
  {
    MutexLock lock(&mutex_);
    draining_ = true;
  }
  FAIL_POINT("drain.begin");
  size_t left = 0;
  for (const auto& session : Alive()) {
    if (!session->resident() || !IsBehind(*session)) continue;
    const auto patience =
        std::chrono::duration_cast<milliseconds>(deadline - clock_.MonotonicNow());
    if (patience <= kNoPatience) {
      ++left;
      continue;
    }
    if (!SnapshotNow(session, {}, patience).ok()) ++left;
    FAIL_POINT("drain.session");
  }
  return left;
}

KeeperHealth SessionKeeper::health() const {
  MutexLock lock(&mutex_);
  return health_;
}

void SessionKeeper::Note(const absl::Status& status, const Session& session,
                         std::string_view words) {
  Log(spdlog::level::err, words,
      {{"session", session.name()},
       {"reason", ErrorReason(status)},
       {"detail", ErrorMessage(status)}});
  const_cast<Session&>(session).ReportDurabilityError(ErrorReason(status));
  MutexLock lock(&mutex_);
  ++health_.failure_count;
  health_.error = ErrorReason(status);
}

std::vector<std::shared_ptr<Session>> SessionKeeper::Alive() {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Session>> alive;
  for (const auto& [id, kept] : kept_) {
    if (auto session = kept.session.lock()) alive.push_back(std::move(session));
  }
  return alive;
}

int64_t SessionKeeper::SnapshotStep(const Session& session) const {
  MutexLock lock(&mutex_);
  const auto found = kept_.find(session.id());
  return found == kept_.end() ? 0 : found->second.step;
}

bool SessionKeeper::IsBehind(const Session& session) const {
  const int64_t step = session.progress().last_step;
  MutexLock lock(&mutex_);
  const auto found = kept_.find(session.id());
  return found != kept_.end() && (found->second.step != step || found->second.new_rules);
}

// Takes the snapshots that are due, and sends away who is idle. On the writer's thread.
void SessionKeeper::LookAfterAll() {
  if (clock_.MonotonicNow() - disk_counted_ >= kCountPeriod) {
    // Half a snapshot would count for half.
    if (const auto writing = writing_->Try(); writing != nullptr) CountDisk();
    disk_counted_ = clock_.MonotonicNow();
  }
  for (const auto& session : Alive()) {
    if (!session->CheckUsable().ok()) continue;
    Clock::Monotonic tried;
    int64_t step = 0;
    int64_t log_bytes = 0;
    Expired expired;
    {
      MutexLock lock(&mutex_);
      if (draining_) return;
      const auto found = kept_.find(session->id());
      if (found == kept_.end()) continue;
      tried = found->second.tried;
      step = found->second.step;
      log_bytes = found->second.log_bytes;
      expired = expired_;
    }
    const double since = Seconds(clock_.MonotonicNow() - tried);
    const double idle = Seconds(clock_.MonotonicNow() - session->touched());
    const Session::Progress progress = session->progress();
    const int64_t behind = progress.last_step - step;
    if (session->resident() && IsBehind(*session)) {
      // After a failure, not more often than once in a while.
      const bool rested = progress.durability_error.empty() || since >= 5;
      const bool by_time =
          options_.snapshot_seconds > 0 && since >= static_cast<double>(options_.snapshot_seconds);
      const bool by_steps = options_.snapshot_steps > 0 && behind >= options_.snapshot_steps;
      const bool by_log = log_bytes > options_.log_bytes_max;
      const bool has_none = step == kNoStep;
      // A snapshot makes durable what a log that is full or broken does not, and starts another.
      const bool log_failed =
          session->spec().durability == Durability::kStep && !progress.durability_error.empty();
      if (rested && (by_time || by_steps || by_log || has_none || log_failed)) {
        (void)SnapshotNow(session, {}, kPatience);
      }
    }
    if (options_.idle_seconds > 0 && session->resident() &&
        idle >= static_cast<double>(options_.idle_seconds)) {
      (void)Evict(session);
    }
    if (options_.expire_seconds > 0 && !progress.held &&
        idle >= static_cast<double>(options_.expire_seconds)) {
      if (!Evict(session).ok()) continue;
      const absl::Status moved = folder_->Expire(session->id(), kExpiredKept);
      if (!moved.ok()) {
        Note(moved, *session, "session cannot expire");
        continue;
      }
      Log(spdlog::level::info, "session expired", {{"session", session->name()}});
      {
        MutexLock lock(&mutex_);
        kept_.erase(std::string(session->id()));
      }
      if (expired) expired(session);
    }
  }
}

}  // namespace mnemosyne::server
