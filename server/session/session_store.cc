#include "server/session/session_store.h"

#include <openssl/rand.h>

#include <array>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/status_macros.h"

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

int64_t TableBytes(const optim::ParameterLayout& layout, size_t cell_elements) {
  int64_t bytes = kBytesPerSession;
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const size_t cells = (layout.runs()[i].count + cell_elements - 1) / cell_elements;
    bytes += kBytesPerParameter + static_cast<int64_t>(layout.parameters()[i].name.size()) +
             kBytesPerCell * static_cast<int64_t>(cells);
  }
  return bytes;
}

}  // namespace

SessionStore::SessionStore(SessionLimits limits, MemoryBudget& budget, TenantQuotas& quotas,
                           const ModelRegistry& models, StepExecutor& executor, const Clock& clock)
    : limits_(limits),
      budget_(budget),
      quotas_(quotas),
      models_(models),
      executor_(executor),
      clock_(clock) {}

absl::StatusOr<std::shared_ptr<Session>> SessionStore::Prepare(
    const std::string& tenant, SessionSpec spec, const optim::OptimizerFactoryPtr& factory,
    StepExecutor::Device& device) const {
  MNEMO_ASSIGN_OR_RETURN(auto rules, ResolveRules(spec, factory->info()));
  auto created = optim::ParameterLayout::Create(std::exchange(spec.parameters, {}));
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
  const int64_t arenas = backend.host_accessible() ? 1 : 2;
  const int64_t bytes =
      state_bytes + arenas * arena_bytes + TableBytes(layout, limits_.cell_elements);
  MNEMO_ASSIGN_OR_RETURN(
      TenantQuotas::Share share,
      quotas_.Take(tenant, {.sessions = 1,
                            .memory_bytes = bytes,
                            .parameters = static_cast<int64_t>(layout.parameters().size())}));
  MNEMO_ASSIGN_OR_RETURN(MemoryBudget::Reservation reservation, budget_.Reserve(bytes));
  auto session =
      std::make_shared<Session>(Session::Parts{.name = "sessions/" + RandomHex(kNameBytes),
                                               .token = RandomHex(kTokenBytes),
                                               .tenant = tenant,
                                               .device = std::string(backend.name()),
                                               .spec = std::move(spec),
                                               .optimizer = std::move(optimizer),
                                               .rules = std::move(rules),
                                               .layout = std::move(layout),
                                               .cell_elements = limits_.cell_elements,
                                               .state_bytes = state_bytes,
                                               .reservation = std::move(reservation),
                                               .share = std::move(share)},
                                clock_);
  MNEMO_RETURN_IF_ERROR(session->Allocate(device.backend()));
  return session;
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
    } else if (refused = quotas_.CountCreation(caller.tenant); refused.ok()) {
      Creation& creation = creations_[request];
      creation.spec_fingerprint = spec_fingerprint;
      creation.waiting.push_back(done);
    }
  }
  if (!refused.ok()) return done(refused);
  if (made_before != nullptr) return done(made_before);

  spec.optimizer_version = (*factory)->info().version;
  spec.weights_hash = (*factory)->info().weights_hash;
  const absl::Status submitted = executor_.Submit(
      caller.tenant,
      [this, request, spec = std::move(spec), factory = *factory](StepExecutor::Device& device) {
        Finish(request, Prepare(request.first, spec, factory, device));
      });
  if (!submitted.ok()) Finish(request, submitted);
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
