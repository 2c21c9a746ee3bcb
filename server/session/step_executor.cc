#include "server/session/step_executor.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/fail_point.h"
#include "base/status_macros.h"
#include "server/session/shutting_down.h"
#include "server/session/step_runner.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

// How long a caller should wait when the queue is full: some small steps, or part of a large one.
constexpr char kRetryAfterMs[] = "100";

// Bounds of what steps together: a step of some milliseconds is as fast alone, and nobody should
// wait for more than that of others.
constexpr size_t kSharedStepsMax = 1024;
constexpr size_t kSharedElementsMax = size_t{1} << 24;

}  // namespace

absl::StatusOr<std::shared_ptr<optim::Optimizer>> StepExecutor::Device::GetOptimizer(
    const optim::OptimizerFactoryPtr& factory) {
  if (const auto found = optimizers_.find(factory.get()); found != optimizers_.end()) {
    if (auto shared = found->second.lock()) return shared;
  }
  std::erase_if(optimizers_, [](const auto& entry) { return entry.second.expired(); });
  MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<optim::Optimizer> made, factory->Create(*backend_));
  // While it lives, so does its factory, and no other can come to lie at the same address.
  std::shared_ptr<optim::Optimizer> shared(
      made.release(), [factory](const optim::Optimizer* optimizer) { delete optimizer; });
  optimizers_[factory.get()] = shared;
  return shared;
}

StepExecutor::StepExecutor(std::unique_ptr<kernels::Backend> backend, size_t queue_max,
                           const Clock& clock, size_t ordinal, Runner runner)
    : queue_max_(queue_max),
      clock_(clock),
      ordinal_(ordinal),
      device_name_(backend->name()),
      device_description_(backend->description()),
      has_own_memory_(!backend->host_accessible()),
      shares_launches_(backend->shares_launches()),
      device_(std::move(backend)) {
  if (runner == Runner::kOwnThread) thread_ = std::thread([this] { Work(); });
}

StepExecutor::~StepExecutor() { Stop(); }

absl::Status StepExecutor::Submit(const std::string& tenant, Task task) {
  Entry entry;
  entry.task = std::move(task);
  return Queue(tenant, std::move(entry));
}

absl::Status StepExecutor::SubmitStep(std::unique_ptr<PendingStep> step, StepCallback done) {
  step->MarkEnd();
  Session& session = step->session();
  const std::string tenant = session.tenant();
  Entry entry;
  if (shares_launches_ && step->kind() == StepKind::kApply) entry.rule = &session.rule();
  entry.elements = session.layout().arena_size();
  entry.step = std::move(step);
  entry.done = std::move(done);
  return Queue(tenant, std::move(entry));
}

absl::Status StepExecutor::Queue(const std::string& tenant, Entry entry) {
  MutexLock lock(&mutex_);
  if (stopped_) {
    return ShuttingDown("try again a little later");
  }
  const auto found = lines_.find(tenant);
  const size_t own = found == lines_.end() ? 0 : found->second.entries.size();
  const size_t own_max = tenant.empty() ? queue_max_ : std::max<size_t>(queue_max_ / 2, 1);
  if (queued_ >= queue_max_ || own >= own_max) {
    return WithMetadata(
        WithReason(ResourceExhausted("{} tasks already wait for device {}; try again a little "
                                     "later, or raise --queue-max",
                                     own >= own_max ? own : queue_max_, device_name_),
                   "QUEUE_FULL"),
        "retry_after_ms", kRetryAfterMs);
  }
  FAIL_POINT("queue.submit");
  Line& line = lines_[tenant];
  // Who begins to wait has no claim on time that it did not wait for.
  if (line.entries.empty()) line.used = std::max(line.used, served_);
  line.entries.push_back(std::move(entry));
  ++queued_;
  return absl::OkStatus();
}

void StepExecutor::NoteFault(const absl::Status& cause) {
  if (cause.ok()) return;
  {
    MutexLock lock(&mutex_);
    if (!fault_.ok()) return;
    fault_ = WithReason(
        Unavailable("device {} failed and is used no more: {}; open the session again, which goes "
                    "on from its last snapshot on another device; the daemon has this one back "
                    "when it is started anew",
                    device_name_, ErrorMessage(cause)),
        "DEVICE_FAULT");
  }
  Log(spdlog::level::err, "device failed",
      {{"device", device_name_}, {"detail", ErrorMessage(cause)}});
}

absl::Status StepExecutor::fault() const {
  MutexLock lock(&mutex_);
  return fault_;
}

void StepExecutor::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  if (thread_.joinable()) return thread_.join();
  while (RunNext()) {
  }
}

size_t StepExecutor::queue_length() const {
  MutexLock lock(&mutex_);
  return queued_;
}

std::array<int64_t, StepExecutor::kShareCount> StepExecutor::share_counts() const {
  std::array<int64_t, kShareCount> counts;
  for (size_t k = 0; k < kShareCount; ++k) {
    counts[k] = share_counts_[k].load(std::memory_order_relaxed);
  }
  return counts;
}

StepExecutor::Line& StepExecutor::NextLine() {
  Line* next = nullptr;
  for (auto& [tenant, line] : lines_) {
    if (line.entries.empty()) continue;
    if (next == nullptr ||
        std::tie(line.used, line.last_turn) < std::tie(next->used, next->last_turn)) {
      next = &line;
    }
  }
  return *next;
}

void StepExecutor::Take(Line& line, Batch& batch) {
  line.last_turn = ++turns_;
  const size_t elements = line.entries.front().elements;
  batch.elements += elements;
  batch.shares.emplace_back(&line, elements);
  batch.entries.push_back(std::move(line.entries.front()));
  line.entries.pop_front();
  --queued_;
}

StepExecutor::Batch StepExecutor::TakeNext() {
  Batch batch;
  Line& first = NextLine();
  served_ = first.used;
  Take(first, batch);
  const optim::Optimizer* const rule = batch.entries.front().rule;
  if (rule == nullptr) return batch;
  const auto joins = [&](const Line& line) {
    return !line.entries.empty() && line.entries.front().rule == rule &&
           batch.entries.size() < kSharedStepsMax &&
           batch.elements + line.entries.front().elements <= kSharedElementsMax;
  };
  for (bool found = true; found;) {
    found = false;
    for (auto& [tenant, line] : lines_) {  // One of each in turns.
      if (!joins(line)) continue;
      Take(line, batch);
      found = true;
    }
  }
  return batch;
}

void StepExecutor::Charge(const Batch& batch, Clock::Monotonic::duration time) {
  if (batch.shares.size() == 1) {
    batch.shares.front().first->used += time;
    return;
  }
  for (const auto& [line, elements] : batch.shares) {
    const double share =
        static_cast<double>(elements) / static_cast<double>(std::max<size_t>(batch.elements, 1));
    line->used += std::chrono::duration_cast<Clock::Monotonic::duration>(time * share);
  }
}

void StepExecutor::RunBatch(Batch& batch) {
  if (batch.entries.front().step == nullptr) {
    batch.entries.front().task(device_);
    batch.entries.front().task = nullptr;  // What it holds goes before the next one runs.
    return;
  }
  RunEntries(batch.entries);
}

void StepExecutor::RunEntries(std::span<Entry> entries) {
  std::vector<PendingStep*> steps;
  for (const Entry& entry : entries) {
    FAIL_POINT("step.begin");
    steps.push_back(entry.step.get());
  }
  const Clock::Monotonic start = clock_.MonotonicNow();
  const absl::Status broken = fault();
  std::vector<absl::Status> statuses(steps.size(), broken);
  if (broken.ok()) {
    statuses = RunSteps(steps, steps.front()->session().rule(), device_.backend());
    size_t share = 0;
    while (share + 1 < kShareCount && (size_t{1} << share) < steps.size()) ++share;
    share_counts_[share].fetch_add(1, std::memory_order_relaxed);
  }
  const Clock::Monotonic end = clock_.MonotonicNow();
  for (size_t i = 0; i < entries.size(); ++i) {
    StepOutcome& outcome = steps[i]->outcome();
    outcome.receive_seconds = Seconds(steps[i]->end_time() - steps[i]->begin_time());
    outcome.queue_seconds = Seconds(start - steps[i]->end_time());
    outcome.compute_seconds = Seconds(end - start);
    Finish(std::move(entries[i]), Settle(*steps[i], statuses[i]));
  }
}

// What the session and the device have to learn of a step's status; returns what its caller is
// told.
absl::Status StepExecutor::Settle(PendingStep& step, absl::Status status) {
  if (status.ok()) step_count_.fetch_add(1, std::memory_order_relaxed);
  if (status.code() != absl::StatusCode::kInternal) return status;
  NoteFault(device_.backend().Fault());
  absl::Status failed = fault();
  if (!failed.ok()) return failed;
  step.session().Quarantine(status);
  return status;
}

void StepExecutor::Finish(Entry entry, const absl::Status& status) {
  Session& session = entry.step->session();
  if (!status.ok() || session.state().log == nullptr || !session.hooks().commit) {
    entry.done(std::move(entry.step), status);
    return;
  }
  // The step holds its session's turn until it is durable; other sessions go on meanwhile. A
  // callback must be copyable, a step is not.
  auto shared = std::make_shared<Entry>(std::move(entry));
  session.hooks().commit([shared] { shared->done(std::move(shared->step), absl::OkStatus()); });
}

void StepExecutor::Work() {
  const auto ready = [this]()
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_ || queued_ > 0; };
  do {
    MutexLock lock(&mutex_);
    lock.Await(ready);
  } while (RunNext());  // Nothing waits: it has been stopped, and all is done.
}

bool StepExecutor::RunNext() {
  Batch batch;
  {
    MutexLock lock(&mutex_);
    if (queued_ == 0) return false;
    batch = TakeNext();
  }
  FAIL_POINT("queue.take");
  const Clock::Monotonic start = clock_.MonotonicNow();
  RunBatch(batch);
  NoteFault(device_.backend().Fault());
  MutexLock lock(&mutex_);
  Charge(batch, clock_.MonotonicNow() - start);
  return true;
}

}  // namespace mnemosyne::server
