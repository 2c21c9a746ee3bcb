#include "server/session/session.h"

#include <openssl/crypto.h>

#include <utility>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {
namespace {

constexpr char kNamePrefix[] = "sessions/";

std::vector<size_t> ElementCounts(const optim::ParameterLayout& layout) {
  std::vector<size_t> counts;
  for (const optim::ParameterLayout::Run& run : layout.runs()) counts.push_back(run.count);
  return counts;
}

absl::Status Superseded() {
  return WithReason(
      MakeError(absl::StatusCode::kAborted,
                "a newer stream or call holds this session; do not open it again from here"),
      "SUPERSEDED");
}

}  // namespace

Session::Session(Parts parts, const Clock& clock)
    : name_(std::move(parts.name)),
      token_(std::move(parts.token)),
      tenant_(std::move(parts.tenant)),
      factory_(std::move(parts.factory)),
      layout_(std::move(parts.layout)),
      grid_(ElementCounts(layout_), parts.cell_elements),
      state_bytes_(parts.state_bytes),
      share_(std::move(parts.share)),
      resident_memory_(parts.resident_memory),
      parked_memory_(parts.parked_memory),
      request_id_(std::move(parts.request_id)),
      spec_fingerprint_(parts.spec_fingerprint),
      clock_(clock),
      create_time_(parts.create_time.value_or(clock.Now())),
      turnstile_(std::make_shared<Turnstile>()),
      touched_(clock.MonotonicNow()),
      place_(std::move(parts.place)),
      reservation_(std::move(parts.reservation)),
      spec_(std::move(parts.spec)),
      rules_(std::move(parts.rules)) {
  progress_.epoch = parts.epoch;
  progress_.last_step = parts.last_step;
}

std::string_view Session::id() const {
  return std::string_view(name_).substr(std::string_view(kNamePrefix).size());
}

Session::Place Session::place() const {
  MutexLock lock(&mutex_);
  return place_;
}

std::string Session::device() const { return executor().device_name(); }

MemoryAmounts Session::resident_memory() const {
  MemoryAmounts amounts = resident_memory_;
  amounts.ordinal = executor().ordinal();
  return amounts;
}

void Session::MoveTo(Place place) {
  MutexLock lock(&mutex_);
  std::swap(place_, place);  // What goes is destroyed without the lock.
}

int64_t Session::reserved_bytes() const {
  MutexLock lock(&mutex_);
  return reservation_.bytes();
}

void Session::SetReservation(MemoryBudget::Reservation reservation) {
  MutexLock lock(&mutex_);
  reservation_ = std::move(reservation);
}

void Session::DropState() {
  tier_.store(Tier::kDisk, std::memory_order_release);
  state_ = SessionState();
}

void Session::Unload() {
  DropState();
  SetReservation({});
}

absl::StatusOr<Session::Arenas> Session::MakeArenas(kernels::Backend& backend) {
  const size_t bytes = layout_.arena_size() * sizeof(float);
  Arenas arenas;
  MNEMO_ASSIGN_OR_RETURN(arenas.optimizer, rule().Init(layout_));
  MNEMO_ASSIGN_OR_RETURN(arenas.staging, backend.AllocateHost(bytes));
  if (!backend.host_accessible()) {
    MNEMO_ASSIGN_OR_RETURN(arenas.values, backend.Allocate(bytes));
  }
  return arenas;
}

absl::Status Session::Allocate(kernels::Backend& backend) {
  state_ = SessionState();
  MNEMO_ASSIGN_OR_RETURN(Arenas arenas, MakeArenas(backend));
  state_.clocks.assign(layout_.parameters().size(), 0);
  state_.optimizer = std::move(arenas.optimizer);
  state_.staging = std::move(arenas.staging);
  state_.values = std::move(arenas.values);
  tier_.store(Tier::kResident, std::memory_order_release);
  return absl::OkStatus();
}

absl::Status Session::Park(kernels::Backend& backend) {
  MNEMO_ASSIGN_OR_RETURN(state_.parked, ParkedTensors::Take(state_.optimizer->Tensors(),
                                                            layout_.parameters(), backend));
  tier_.store(Tier::kParked, std::memory_order_release);
  state_.optimizer.reset();
  state_.staging = {};
  state_.values = {};
  return absl::OkStatus();
}

absl::Status Session::Unpark(kernels::Backend& backend) {
  MNEMO_ASSIGN_OR_RETURN(Arenas arenas, MakeArenas(backend));
  MNEMO_RETURN_IF_ERROR(state_.parked->PutInto(arenas.optimizer->Tensors(), backend));
  state_.optimizer = std::move(arenas.optimizer);
  state_.staging = std::move(arenas.staging);
  state_.values = std::move(arenas.values);
  state_.parked.reset();
  tier_.store(Tier::kResident, std::memory_order_release);
  return absl::OkStatus();
}

bool Session::TokenMatches(std::string_view token) const {
  return token.size() == token_.size() &&
         CRYPTO_memcmp(token.data(), token_.data(), token.size()) == 0;
}

SessionSpec Session::spec() const {
  MutexLock lock(&mutex_);
  return spec_;
}

std::shared_ptr<const StepRules> Session::rules() const {
  MutexLock lock(&mutex_);
  return rules_;
}

void Session::SetRules(SessionSpec spec, std::shared_ptr<const StepRules> rules) {
  MutexLock lock(&mutex_);
  spec_ = std::move(spec);
  rules_ = std::move(rules);
}

absl::StatusOr<int64_t> Session::Take(Eviction eviction, const Opening& opening) {
  Eviction evicted;
  int64_t epoch = 0;
  {
    MutexLock lock(&mutex_);
    if (!closed_.ok()) return closed_;
    if (opening.stream != 0 && opening.stream == opening_.stream &&
        opening.attempt <= opening_.attempt) {
      return WithReason(MakeError(absl::StatusCode::kAborted,
                                  fmt::format("opening {} of this stream came after opening {}",
                                              opening.attempt, opening_.attempt)),
                        "STALE_OPENING");
    }
    opening_ = opening;
    evicted = std::exchange(eviction_, std::move(eviction));
    epoch = ++progress_.epoch;
    progress_.held = true;
  }
  if (evicted) evicted(Superseded());
  if (hooks_.taken) hooks_.taken(epoch);
  return epoch;
}

void Session::Release(int64_t epoch) {
  Eviction released;  // Destroyed without the lock.
  MutexLock lock(&mutex_);
  if (progress_.epoch != epoch) return;
  released = std::exchange(eviction_, nullptr);
  progress_.held = false;
}

absl::Status Session::CheckHolder(int64_t epoch) const {
  MutexLock lock(&mutex_);
  if (!closed_.ok()) return closed_;
  return progress_.epoch == epoch ? absl::OkStatus() : Superseded();
}

void Session::Close() {
  Eviction evicted;
  const absl::Status deleted = WithReason(NotFound("the session was deleted"), "SESSION_NOT_FOUND");
  {
    MutexLock lock(&mutex_);
    closed_ = deleted;
    evicted = std::exchange(eviction_, nullptr);
    progress_.held = false;
  }
  if (evicted) evicted(deleted);
}

void Session::Evict(const absl::Status& cause) {
  Eviction evicted;
  {
    MutexLock lock(&mutex_);
    evicted = std::exchange(eviction_, nullptr);
    progress_.held = false;
  }
  if (evicted) evicted(cause);
}

void Session::Quarantine(const absl::Status& cause) {
  Eviction evicted;
  const absl::Status faulted = WithReason(
      Internal(
          "this session failed and takes no more steps: {}; export what can be had, delete it, "
          "and make a new one",
          ErrorMessage(cause)),
      "SESSION_FAULTED");
  {
    MutexLock lock(&mutex_);
    closed_ = faulted;
    evicted = std::exchange(eviction_, nullptr);
    progress_.held = false;
  }
  if (evicted) evicted(faulted);
}

Session::Progress Session::progress() const {
  MutexLock lock(&mutex_);
  return progress_;
}

void Session::ReportStep(int64_t last_step) {
  {
    MutexLock lock(&mutex_);
    progress_.last_step = last_step;
    progress_.last_step_time = clock_.Now();
  }
  Touch();
  if (hooks_.stepped) hooks_.stepped();
}

void Session::ReportDurable(int64_t last_durable_step, std::string error) {
  MutexLock lock(&mutex_);
  progress_.last_durable_step = last_durable_step;
  progress_.durability_error = std::move(error);
}

void Session::ReportDurabilityError(std::string error) {
  MutexLock lock(&mutex_);
  progress_.durability_error = std::move(error);
}

void Session::ReportStep(const StepOutcome& outcome) {
  ReportStep(outcome.number);
  MutexLock lock(&mutex_);
  progress_.guard = outcome.guard;
  progress_.non_finite_count += outcome.non_finite_count;
  progress_.skipped_count += static_cast<int64_t>(outcome.skipped.size());
}

absl::Status Session::CheckUsable() const {
  MutexLock lock(&mutex_);
  return closed_;
}

}  // namespace mnemosyne::server
