#include "server/session/session_store.h"

#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/session/device_call.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

// `size` random bytes in hexadecimal, from the operating system's generator.
std::string RandomHex(size_t size) {
  std::vector<unsigned char> bytes(size);
  MNEMO_CHECK(RAND_bytes(bytes.data(), static_cast<int>(size)) == 1);
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

constexpr size_t kNameBytes = 8;    // 64 bits: unique among the sessions of a daemon.
constexpr size_t kTokenBytes = 32;  // 256 bits: not to be guessed.

// What a session keeps beside its arenas, for each parameter and each cell: specs, clocks, plans,
// bitmaps and fingerprints of the last step and of the one on its way.
constexpr int64_t kBytesPerParameter = 512;
constexpr int64_t kBytesPerCell = 32;
constexpr int64_t kBytesPerSession = 16 * 1024;

// Beyond any machine's memory, and far from where a count of bytes would overflow.
constexpr size_t kArenaElementsMax = size_t{1} << 48;

// How often room is made for a session, should others take it.
constexpr int kRoomTries = 5;

int64_t TableBytes(const optim::ParameterLayout& layout, size_t cell_elements) {
  int64_t bytes = kBytesPerSession;
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const size_t cells = (layout.runs()[i].count + cell_elements - 1) / cell_elements;
    bytes += kBytesPerParameter + static_cast<int64_t>(layout.parameters()[i].name.size()) +
             kBytesPerCell * static_cast<int64_t>(cells);
  }
  return bytes;
}

TenantQuotas::Amounts AmountsOf(const Session::Parts& parts) {
  return {.sessions = 1,
          .memory_bytes = parts.resident_memory.total(),
          .device_bytes = parts.device_bytes,
          .parameters = static_cast<int64_t>(parts.layout.parameters().size())};
}

}  // namespace

SessionStore::SessionStore(SessionLimits limits, MemoryBudget& budget, TenantQuotas& quotas,
                           const ModelRegistry& models, const DeviceSet& devices,
                           const Clock& clock)
    : limits_(limits),
      budget_(budget),
      quotas_(quotas),
      models_(models),
      devices_(devices),
      clock_(clock) {}

void SessionStore::SetKeeper(SessionKeeper* keeper) {
  keeper_ = keeper;
  keeper_->OnExpired([this](const std::shared_ptr<Session>& session) { Drop(session); });
}

absl::StatusOr<Session::Parts> SessionStore::MakeParts(SessionSpec spec,
                                                       const optim::OptimizerFactoryPtr& factory,
                                                       size_t cell_elements, StepExecutor& executor,
                                                       StepExecutor::Device& device) const {
  MNEMO_ASSIGN_OR_RETURN(auto rules, ResolveRules(spec, factory->info()));
  if (spec.state_precision == optim::StatePrecision::kHalf && !factory->info().has_half_state) {
    return WithReason(
        InvalidArgument("state_precision: {} keeps no state of 16 bits; leave it unset",
                        factory->info().name),
        "UNSUPPORTED");
  }
  auto created =
      optim::ParameterLayout::Create(std::exchange(spec.parameters, {}), spec.state_precision);
  if (!created.ok()) return WithReason(created.status(), "INVALID_PARAMETER");
  optim::ParameterLayout layout = *std::move(created);

  if (layout.arena_size() > kArenaElementsMax) {
    return WithReason(
        ResourceExhausted("no room: the parameters have {} elements; no machine holds "
                          "more than {}",
                          layout.element_count(), kArenaElementsMax),
        "MEMORY_EXHAUSTED");
  }
  const kernels::Backend& backend = device.backend();
  MNEMO_ASSIGN_OR_RETURN(auto optimizer, device.GetOptimizer(factory));
  const auto state_bytes = static_cast<int64_t>(optimizer->StateBytes(layout));
  const auto arena_bytes = static_cast<int64_t>(layout.arena_size() * sizeof(float));
  const int64_t table_bytes = TableBytes(layout, cell_elements);
  const bool apart = !backend.host_accessible();
  const int64_t device_bytes = apart ? state_bytes + arena_bytes : state_bytes;
  const MemoryAmounts resident{.host = arena_bytes + table_bytes + (apart ? 0 : state_bytes),
                               .device = apart ? device_bytes : 0,
                               .ordinal = executor.ordinal()};
  return Session::Parts{.name = {},
                        .token = {},
                        .tenant = {},
                        .place = {&executor, std::move(optimizer)},
                        .spec = std::move(spec),
                        .factory = factory,
                        .rules = std::move(rules),
                        .layout = std::move(layout),
                        .cell_elements = cell_elements,
                        .state_bytes = state_bytes,
                        .device_bytes = device_bytes,
                        .resident_memory = resident,
                        .parked_memory = {.host = state_bytes + table_bytes},
                        .reservation = {},
                        .share = {}};
}

absl::StatusOr<std::shared_ptr<Session>> SessionStore::Prepare(
    const Identity& identity, SessionSpec spec, const optim::OptimizerFactoryPtr& factory,
    StepExecutor& executor, StepExecutor::Device& device) const {
  MNEMO_ASSIGN_OR_RETURN(Session::Parts parts, MakeParts(std::move(spec), factory,
                                                         limits_.cell_elements, executor, device));
  const std::string& tenant = identity.request.first;
  const TenantQuotas::Amounts amounts = AmountsOf(parts);
  auto share = quotas_.Take(tenant, amounts);
  if (!share.ok()) {
    return quotas_.MayEverHave(tenant, amounts) ? TellExpiry(share.status(), &tenant)
                                                : share.status();
  }
  parts.share = *std::move(share);
  MNEMO_ASSIGN_OR_RETURN(parts.reservation, budget_.Reserve(parts.resident_memory));
  parts.name = "sessions/" + RandomHex(kNameBytes);
  parts.token = RandomHex(kTokenBytes);
  parts.tenant = tenant;
  parts.request_id = identity.request.second;
  parts.spec_fingerprint = identity.spec_fingerprint;
  auto session = std::make_shared<Session>(std::move(parts), clock_);
  MNEMO_RETURN_IF_ERROR(session->Allocate(device.backend()));
  FAIL_POINT("create.prepared");
  return session;
}

void SessionStore::Make(const Identity& identity, SessionSpec spec,
                        optim::OptimizerFactoryPtr factory, int room_tries) {
  const auto chosen = devices_.Choose();
  if (!chosen.ok()) return Finish(identity.request, chosen.status());
  StepExecutor& executor = **chosen;
  const absl::Status submitted = executor.Submit(
      identity.request.first,
      [this, identity, spec, factory, room_tries, &executor](StepExecutor::Device& device) {
        auto prepared = Prepare(identity, spec, factory, executor, device);
        if (keeper_ == nullptr) return Finish(identity.request, std::move(prepared));
        if (prepared.ok()) {
          const auto session = *prepared;
          return keeper_->KeepNew(session, [this, session](const absl::Status&) {
            KeepModelOf(session->spec());
            Finish(RequestKey(session->tenant(), session->request_id()), session);
          });
        }
        if (room_tries == 0 || ErrorReason(prepared.status()) != "MEMORY_EXHAUSTED") {
          return Finish(identity.request, std::move(prepared));
        }
        auto parts = MakeParts(spec, factory, limits_.cell_elements, executor, device);
        if (!parts.ok() || !budget_.CanHold(parts->resident_memory)) {
          return Finish(identity.request, std::move(prepared));
        }
        keeper_->MakeRoom(parts->resident_memory,
                          [this, identity, spec, factory, room_tries](const absl::Status& made) {
                            // Somebody else may be quicker.
                            Make(identity, spec, factory, made.ok() ? room_tries - 1 : 0);
                          });
      });
  if (!submitted.ok()) Finish(identity.request, submitted);
}

// A copy of the weights, so that the session can be restored when their folder has changed.
void SessionStore::KeepModelOf(const SessionSpec& spec) {
  if (spec.weights_hash.empty()) return;
  auto file = models_.ReadFile(spec.optimizer, spec.optimizer_version, spec.weights_hash);
  const absl::Status kept =
      file.ok() ? keeper_->KeepModel(spec.weights_hash, *file) : file.status();
  if (kept.ok()) return;
  Log(spdlog::level::err, "model not kept",
      {{"model", spec.optimizer}, {"weights", spec.weights_hash}, {"detail", ErrorMessage(kept)}});
}

absl::StatusOr<optim::OptimizerFactoryPtr> SessionStore::FindFactory(const SessionSpec& spec) {
  auto found =
      models_.optimizers()->Find(spec.optimizer, spec.optimizer_version, spec.weights_hash);
  if (found.ok() || spec.weights_hash.empty()) return found;
  if (const auto known = kept_models_.find(spec.weights_hash); known != kept_models_.end()) {
    return known->second;
  }
  const auto path = keeper_->FindModel(spec.weights_hash);
  if (!path) return found;
  MNEMO_ASSIGN_OR_RETURN(optim::OptimizerFactoryPtr factory,
                         ModelRegistry::Load(*path, spec.optimizer, spec.optimizer_version));
  if (factory->info().weights_hash != spec.weights_hash) {
    return DataLoss("the kept copy of the weights {} is damaged", spec.weights_hash);
  }
  kept_models_[spec.weights_hash] = factory;
  return factory;
}

absl::Status SessionStore::RestoreOne(SessionRecord record) {
  MNEMO_ASSIGN_OR_RETURN(const optim::OptimizerFactoryPtr factory, FindFactory(record.spec));
  std::shared_ptr<Session> session;
  MNEMO_ASSIGN_OR_RETURN(StepExecutor* const chosen, devices_.Choose());
  MNEMO_RETURN_IF_ERROR(CallDevice(*chosen, [&](StepExecutor::Device& device) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(Session::Parts parts, MakeParts(std::move(record.spec), factory,
                                                           record.cell_elements, *chosen, device));
    parts.name = record.name;
    parts.token = record.token;
    parts.tenant = record.tenant;
    parts.request_id = record.request_id;
    // A session that is there stays, also where its tenant may have less by now.
    if (auto share = quotas_.Take(record.tenant, AmountsOf(parts)); share.ok()) {
      parts.share = *std::move(share);
    }
    parts.spec_fingerprint = record.spec_fingerprint;
    parts.create_time = Clock::Time(std::chrono::duration_cast<Clock::Time::duration>(
        std::chrono::nanoseconds(record.create_nanoseconds)));
    parts.epoch = record.epoch;
    parts.last_step = record.step;
    session = std::make_shared<Session>(std::move(parts), clock_);
    return absl::OkStatus();
  }));
  keeper_->Adopt(session);
  MutexLock lock(&mutex_);
  const RequestKey request(record.tenant, record.request_id);
  Creation& creation = creations_[request];
  creation.spec_fingerprint = record.spec_fingerprint;
  creation.session = session;
  const Position position{record.tenant, ++last_numbers_[record.tenant]};
  order_[position] = session->name();
  sessions_[session->name()] = {session, request, position};
  return absl::OkStatus();
}

void SessionStore::Restore() {
  size_t restored = 0;
  for (SessionRecord& record : keeper_->ReadAll()) {
    const std::string name = record.name;
    if (const absl::Status status = RestoreOne(std::move(record)); !status.ok()) {
      Log(spdlog::level::err, "session cannot be restored",
          {{"session", name}, {"detail", ErrorMessage(status)}});
    } else {
      ++restored;
    }
  }
  kept_models_.clear();
  Log(spdlog::level::info, "sessions restored", {{"sessions", restored}});
}

absl::Status SessionStore::AskTurn(const std::shared_ptr<Session>& session,
                                   SessionKeeper::TurnCallback ready) {
  return session->turnstile().Ask(
      [this, session, ready = std::move(ready)](std::unique_ptr<Turnstile::Turn> turn) {
        session->Touch();
        const absl::Status fault = session->executor().fault();
        if (session->resident() && fault.ok()) return ready(std::move(turn));
        if (keeper_ == nullptr) {
          session->Quarantine(fault);  // There is no snapshot of it.
          return ready(session->CheckUsable());
        }
        keeper_->Load(session, std::move(turn), ready);
      });
}

void SessionStore::Create(const Caller& caller, const std::string& request_id,
                          uint64_t spec_fingerprint, SessionSpec spec, CreateCallback done) {
  const RequestKey request(caller.tenant, request_id);
  const auto factory =
      models_.optimizers()->Find(spec.optimizer, spec.optimizer_version, spec.weights_hash);
  if (const absl::Status status = CheckSessionSpec(spec); !status.ok()) return done(status);
  if (spec.parameters.size() > limits_.parameter_count_max) {
    return done(WithReason(
        ResourceExhausted("the session has {} parameters, the most is {}; raise --parameters-max",
                          spec.parameters.size(), limits_.parameter_count_max),
        "TOO_MANY_PARAMETERS"));
  }

  absl::Status refused;
  std::shared_ptr<Session> made_before;
  {
    MutexLock lock(&mutex_);
    if (const auto found = creations_.find(request); found != creations_.end()) {
      Creation& creation = found->second;
      if (creation.spec_fingerprint != spec_fingerprint) {
        refused = WithReason(
            MakeError(absl::StatusCode::kAlreadyExists,
                      "this request_id made a session with another spec; use a new request_id"),
            "REQUEST_ID_REUSED");
      } else if (creation.session == nullptr) {
        creation.waiting.push_back(std::move(done));
        return;
      } else {
        made_before = creation.session;
      }
    } else if (!factory.ok()) {
      refused = factory.status();
    } else if (creations_.size() >= limits_.session_count_max) {
      refused = WithReason(ResourceExhausted("there are {} sessions already, which is the most; "
                                             "delete some, or raise --sessions-max",
                                             creations_.size()),
                           "TOO_MANY_SESSIONS");
      refused = WithMetadata(std::move(refused), "available", "0");
    } else if (refused = quotas_.CountCreation(caller.tenant); refused.ok()) {
      Creation& creation = creations_[request];
      creation.spec_fingerprint = spec_fingerprint;
      creation.waiting.push_back(done);
    }
  }
  if (ErrorReason(refused) == "TOO_MANY_SESSIONS") {
    refused = TellExpiry(refused, /*tenant=*/nullptr);
  }
  if (!refused.ok()) return done(refused);
  if (made_before != nullptr) return done(made_before);

  spec.optimizer_version = (*factory)->info().version;
  spec.weights_hash = (*factory)->info().weights_hash;
  Make({request, spec_fingerprint}, std::move(spec), *factory, kRoomTries);
}

absl::Status SessionStore::TellExpiry(const absl::Status& refusal,
                                      const std::string* tenant) const {
  if (keeper_ == nullptr || keeper_->options().expire_seconds == 0) return refusal;
  std::vector<std::shared_ptr<Session>> sessions;
  {
    MutexLock lock(&mutex_);
    for (const auto& [name, entry] : sessions_) {
      if (tenant == nullptr || entry.session->tenant() == *tenant) {
        sessions.push_back(entry.session);
      }
    }
  }
  std::optional<Clock::Monotonic> first;
  for (const auto& session : sessions) {
    if (session->progress().held) continue;
    first = std::min(first.value_or(session->touched()), session->touched());
  }
  if (!first) return refusal;
  using std::chrono::milliseconds;
  const auto left = std::chrono::ceil<milliseconds>(
      *first + std::chrono::seconds(keeper_->options().expire_seconds) - clock_.MonotonicNow());
  // One whose time has come is on its way out.
  const milliseconds wait = std::max(left, milliseconds(1000));
  return WithMetadata(
      WithMoreWords(refusal, fmt::format("; the session that idled longest expires in {} s unless "
                                         "it is used",
                                         std::chrono::ceil<std::chrono::seconds>(wait).count())),
      "retry_after_ms", std::to_string(wait.count()));
}

void SessionStore::Finish(const RequestKey& request,
                          absl::StatusOr<std::shared_ptr<Session>> result) {
  std::vector<CreateCallback> waiting;
  {
    MutexLock lock(&mutex_);
    Creation& creation = creations_[request];
    waiting = std::move(creation.waiting);
    creation.waiting.clear();
    if (result.ok()) {
      creation.session = *result;
      const Position position{request.first, ++last_numbers_[request.first]};
      order_[position] = (*result)->name();
      sessions_[(*result)->name()] = {*result, request, position};
    } else {
      creations_.erase(request);
    }
  }
  for (const CreateCallback& done : waiting) done(result);
}

absl::StatusOr<std::shared_ptr<Session>> SessionStore::Find(const Caller& caller,
                                                            std::string_view name) const {
  MutexLock lock(&mutex_);
  const auto found = sessions_.find(name);
  if (found == sessions_.end() || !caller.Sees(found->second.session->tenant())) {
    return WithReason(NotFound("there is no such session; it may have been deleted, or the daemon "
                               "was started anew: create one"),
                      "SESSION_NOT_FOUND");
  }
  return found->second.session;
}

absl::StatusOr<std::shared_ptr<Session>> SessionStore::FindWithToken(const Caller& caller,
                                                                     std::string_view name,
                                                                     std::string_view token) const {
  MNEMO_ASSIGN_OR_RETURN(std::shared_ptr<Session> session, Find(caller, name));
  if (!session->TokenMatches(token)) {
    return WithReason(MakeError(absl::StatusCode::kPermissionDenied,
                                "the token is not this session's; use the one that CreateSession "
                                "returned"),
                      "WRONG_TOKEN");
  }
  return session;
}

std::vector<std::shared_ptr<Session>> SessionStore::List(const Caller& caller, size_t count,
                                                         const Position& after,
                                                         std::optional<Position>* next) const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Session>> sessions;
  next->reset();
  const Position start = caller.admin ? after : Position{caller.tenant, after.number};
  for (auto at = order_.upper_bound(start); at != order_.end(); ++at) {
    if (!caller.Sees(at->first.tenant)) break;
    if (sessions.size() == count) {
      *next = std::prev(at)->first;
      break;
    }
    sessions.push_back(sessions_.find(at->second)->second.session);
  }
  return sessions;
}

void SessionStore::Delete(const std::shared_ptr<Session>& session) {
  Drop(session);
  FAIL_POINT("delete.dropped");
  if (keeper_ != nullptr) keeper_->Forget(*session);
}

void SessionStore::Drop(const std::shared_ptr<Session>& session) {
  {
    MutexLock lock(&mutex_);
    const auto found = sessions_.find(session->name());
    if (found == sessions_.end()) return;
    creations_.erase(found->second.request);
    order_.erase(found->second.position);
    sessions_.erase(found);
  }
  session->Close();
}

size_t SessionStore::count() const {
  MutexLock lock(&mutex_);
  return sessions_.size();
}

}  // namespace mnemosyne::server
