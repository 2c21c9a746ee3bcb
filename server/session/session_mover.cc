#include "server/session/session_mover.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/session/device_call.h"
#include "server/session/state_loader.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

constexpr std::chrono::milliseconds kPatience(10'000);  // Of one who needs room.
constexpr std::chrono::milliseconds kBusyPause(5);  // Before sessions in a step are asked again.

}  // namespace

SessionMover::SessionMover(StateFolder& folder, const KeeperOptions& options, MemoryBudget& budget,
                           KeeperLedger& ledger, SessionSnapshots& snapshots,
                           const DeviceSet& devices, const Clock& clock)
    : folder_(folder),
      options_(options),
      budget_(budget),
      ledger_(ledger),
      snapshots_(snapshots),
      devices_(devices),
      clock_(clock) {}

absl::Status SessionMover::OpenLog(Session& session) {
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
  state.log->BoundTo({.bytes_max = 2 * options_.log_bytes_max,
                      .take = [&disk = snapshots_.disk(), tenant = session.tenant(),
                               spare = session.state_bytes()](int64_t bytes) {
                        return disk.Take(tenant, bytes, spare);
                      }});
  return absl::OkStatus();
}

absl::Status SessionMover::Load(const std::shared_ptr<Session>& session) {
  MNEMO_RETURN_IF_ERROR(session->CheckUsable());
  if (session->resident() && !session->executor().fault().ok()) {
    MNEMO_RETURN_IF_ERROR(LeaveFaulted(session));
  }
  if (session->resident()) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(Settle(*session));
  auto reservation = budget_.Reserve(session->resident_memory());
  if (!reservation.ok()) {
    reservation = FreeRoom(session->resident_memory(), session.get());
    MNEMO_RETURN_IF_ERROR(reservation.status());
  }
  return session->tier() == Session::Tier::kParked ? LoadFromHost(session, *std::move(reservation))
                                                   : LoadFromDisk(session, *std::move(reservation));
}

absl::Status SessionMover::Settle(Session& session) {
  Session::Place place = session.place();
  MNEMO_ASSIGN_OR_RETURN(StepExecutor* const chosen, devices_.Choose(place.executor));
  if (chosen == place.executor) return absl::OkStatus();
  place.executor = chosen;
  MNEMO_RETURN_IF_ERROR(CallDevice(*chosen, [&](StepExecutor::Device& device) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(place.optimizer, device.GetOptimizer(session.factory()));
    return absl::OkStatus();
  }));
  session.MoveTo(std::move(place));
  return absl::OkStatus();
}

absl::Status SessionMover::LeaveFaulted(const std::shared_ptr<Session>& session) {
  const absl::Status fault = session->executor().fault();
  MNEMO_RETURN_IF_ERROR(CallDevice(session->executor(), [&](StepExecutor::Device&) {
    session->Unload();
    return absl::OkStatus();
  }));
  session->Evict(fault);
  Log(spdlog::level::warn, "session lost its device",
      {{"session", session->name()}, {"device", session->device()}});
  return absl::OkStatus();
}

absl::Status SessionMover::WithDeviceRoom(const Session& session,
                                          const std::function<absl::Status()>& load) {
  absl::Status status = load();
  while (absl::IsResourceExhausted(status) && session.can_park()) {
    bool moved = false;
    for (const auto& other : IdleFirst(Session::Tier::kResident, &session)) {
      if (&other->executor() != &session.executor()) continue;
      moved = SendToHost(other).ok();
      if (moved) break;
    }
    if (!moved) break;
    status = load();
  }
  return status;
}

absl::Status SessionMover::LoadFromHost(const std::shared_ptr<Session>& session,
                                        MemoryBudget::Reservation reservation) {
  const Clock::Monotonic start = clock_.MonotonicNow();
  const absl::Status status = WithDeviceRoom(*session, [&] {
    return CallDevice(session->executor(), [&](StepExecutor::Device& device) {
      return session->Unpark(device.backend());
    });
  });
  if (!status.ok()) {
    ledger_.NoteFailure(status, *session, "session cannot come back to the device");
    return status;
  }
  FAIL_POINT("unpark");
  session->SetReservation(std::move(reservation));
  session->Touch();
  Log(spdlog::level::info, "session back on the device",
      {{"session", session->name()},
       {"step", session->state().last_step},
       {"bytes", session->state_bytes()},
       {"seconds", Seconds(clock_.MonotonicNow() - start)}});
  ledger_.Count([](KeeperHealth& health) { ++health.unpark_count; });
  return absl::OkStatus();
}

absl::Status SessionMover::LoadFromDisk(const std::shared_ptr<Session>& session,
                                        MemoryBudget::Reservation reservation) {
  session->SetReservation(std::move(reservation));
  LoadReport report;
  const absl::Status status = WithDeviceRoom(*session, [&]() -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(report, LoadState(session, FolderOf(*session)));
    return absl::OkStatus();
  });
  if (!status.ok()) {
    (void)CallDevice(session->executor(), [&](StepExecutor::Device&) {
      session->Unload();
      return absl::OkStatus();
    });
    ledger_.NoteFailure(status, *session, "session cannot be loaded");
    return status;
  }
  for (const std::string& what : report.passed_over) {
    Log(spdlog::level::warn, "snapshot passed over",
        {{"session", session->name()}, {"detail", what}});
  }
  if (const absl::Status opened = OpenLog(*session); !opened.ok()) {
    ledger_.NoteFailure(opened, *session, "steps cannot be logged");
  }
  session->Touch();
  session->ReportDurable(session->state().last_step);
  Log(spdlog::level::info, "session loaded",
      {{"session", session->name()},
       {"generation", report.generation.number},
       {"step", session->state().last_step},
       {"logged_steps", report.logged_steps},
       {"bytes", report.byte_count},
       {"seconds", report.seconds}});
  ledger_.Change(*session, [&](KeeperLedger::Entry& kept) {
    kept.step = report.generation.step;
    kept.new_rules = false;
  });
  ledger_.Count([](KeeperHealth& health) { ++health.load_count; });
  return absl::OkStatus();
}

SessionMover::Sessions SessionMover::IdleFirst(Session::Tier tier, const Session* for_whom) const {
  Sessions sessions = ledger_.Alive();
  std::erase_if(sessions, [&](const auto& session) {
    return session.get() == for_whom || session->tier() != tier;
  });
  std::ranges::sort(sessions, {}, [](const auto& session) { return session->touched(); });
  return sessions;
}

bool SessionMover::MoveOthersDown(const MemoryAmounts& amounts, const Session* for_whom) {
  bool busy = false;
  for (const auto& session : IdleFirst(Session::Tier::kResident, for_whom)) {
    if (budget_.Lacking(amounts).device == 0) break;
    if (session->executor().ordinal() != amounts.ordinal) continue;
    busy |= ErrorReason(SendToHost(session)) == "BUSY";
  }
  // Those on the device hold less of the host's memory than those that were sent there.
  for (const Session::Tier tier : {Session::Tier::kParked, Session::Tier::kResident}) {
    for (const auto& session : IdleFirst(tier, for_whom)) {
      if (budget_.Lacking(amounts).host == 0) break;
      busy |= ErrorReason(SendToDisk(session)) == "BUSY";
    }
  }
  return busy;
}

absl::StatusOr<MemoryBudget::Reservation> SessionMover::FreeRoom(const MemoryAmounts& amounts,
                                                                 const Session* for_whom) {
  const Clock::Monotonic end = clock_.MonotonicNow() + kPatience;
  auto reservation = budget_.Reserve(amounts);
  bool may_help = budget_.CanHold(amounts);
  while (!reservation.ok() && may_help) {
    // One that is in a step can go after it.
    may_help = MoveOthersDown(amounts, for_whom) && clock_.MonotonicNow() < end;
    reservation = budget_.Reserve(amounts);
    if (!reservation.ok() && may_help) std::this_thread::sleep_for(kBusyPause);
  }
  return reservation;
}

absl::Status SessionMover::Park(const std::shared_ptr<Session>& session) {
  const std::unique_ptr<Turnstile::Turn> turn = session->turnstile().Try();
  if (turn == nullptr) return BusySession();
  // What a session that failed has left can still be exported from where it is.
  MNEMO_RETURN_IF_ERROR(session->CheckUsable());
  if (!session->resident()) return absl::OkStatus();
  MNEMO_ASSIGN_OR_RETURN(auto reservation, budget_.Reserve(session->parked_memory()));
  FAIL_POINT("park");
  MNEMO_RETURN_IF_ERROR(CallDevice(session->executor(), [&](StepExecutor::Device& device) {
    return session->Park(device.backend());
  }));
  FAIL_POINT("parked");
  session->SetReservation(std::move(reservation));
  Log(spdlog::level::info, "session sent to host memory",
      {{"session", session->name()}, {"bytes", session->state_bytes()}});
  ledger_.Count([](KeeperHealth& health) { ++health.park_count; });
  return absl::OkStatus();
}

absl::Status SessionMover::SendToHost(const std::shared_ptr<Session>& session) {
  if (!session->resident() || !session->can_park()) return absl::OkStatus();
  absl::Status parked = Park(session);
  if (!absl::IsResourceExhausted(parked)) return parked;
  for (const auto& other : IdleFirst(Session::Tier::kParked, session.get())) {
    if (budget_.Lacking(session->parked_memory()) == MemoryAmounts()) break;
    (void)SendToDisk(other);
  }
  parked = Park(session);
  return absl::IsResourceExhausted(parked) ? SendToDisk(session) : parked;
}

absl::Status SessionMover::SendToDisk(const std::shared_ptr<Session>& session) {
  if (!session->in_memory()) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(snapshots_.Take(session, {}, SessionSnapshots::kNoPatience));
  const std::unique_ptr<Turnstile::Turn> turn = session->turnstile().Try();
  // A step in between keeps it.
  if (turn == nullptr || ledger_.IsBehind(*session)) return BusySession();
  if (!session->in_memory()) return absl::OkStatus();
  FAIL_POINT("evict");
  MNEMO_RETURN_IF_ERROR(CallDevice(session->executor(), [&](StepExecutor::Device&) {
    session->Unload();
    return absl::OkStatus();
  }));
  Log(spdlog::level::info, "session sent to disk",
      {{"session", session->name()}, {"bytes", session->memory_bytes()}});
  ledger_.Count([](KeeperHealth& health) { ++health.eviction_count; });
  return absl::OkStatus();
}

}  // namespace mnemosyne::server
