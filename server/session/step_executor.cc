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
      device_(std::move(backend)) {
  if (runner == Runner::kOwnThread) thread_ = std::thread([this] { Work(); });
}

StepExecutor::~StepExecutor() { Stop(); }

absl::Status StepExecutor::Submit(const std::string& tenant, Task task) {
  MutexLock lock(&mutex_);
  if (stopped_) {
    return ShuttingDown("try again a little later");
  }
  const auto found = lines_.find(tenant);
  const size_t own = found == lines_.end() ? 0 : found->second.tasks.size();
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
  if (line.tasks.empty()) line.used = std::max(line.used, served_);
  line.tasks.push_back(std::move(task));
  ++queued_;
  return absl::OkStatus();
}

absl::Status StepExecutor::SubmitStep(std::unique_ptr<PendingStep> step, StepCallback done) {
  step->MarkEnd();
  // A task must be copyable, a step is not.
  auto shared = std::make_shared<std::unique_ptr<PendingStep>>(std::move(step));
  const std::string& tenant = (*shared)->session().tenant();
  return Submit(tenant, [this, shared, done = std::move(done)](Device& device) {
    absl::Status status;
    FAIL_POINT("step.begin");
    RunOne(**shared, status, device);
    Session& session = (*shared)->session();
    if (status.ok() && session.state().log != nullptr && session.hooks().commit) {
      // The step holds its session's turn until it is durable; other sessions go on meanwhile.
      session.hooks().commit([shared, done] { done(std::move(*shared), absl::OkStatus()); });
      return;
    }
    done(std::move(*shared), status);
  });
}

void StepExecutor::RunOne(PendingStep& step, absl::Status& status, Device& device) {
  status = fault();
  if (!status.ok()) return;
  const Clock::Monotonic start = clock_.MonotonicNow();
  Session& session = step.session();
  status = RunStep(step, session.rule(), device.backend());
  StepOutcome& outcome = step.outcome();
  outcome.receive_seconds = Seconds(step.end_time() - step.begin_time());
  outcome.queue_seconds = Seconds(start - step.end_time());
  outcome.compute_seconds = Seconds(clock_.MonotonicNow() - start);
  if (status.ok()) step_count_.fetch_add(1, std::memory_order_relaxed);
  if (status.code() != absl::StatusCode::kInternal) return;
  NoteFault(device.backend().Fault());
  const absl::Status failed = fault();
  if (failed.ok()) return session.Quarantine(status);
  status = failed;
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

StepExecutor::Line& StepExecutor::NextLine() {
  Line* next = nullptr;
  for (auto& [tenant, line] : lines_) {
    if (line.tasks.empty()) continue;
    if (next == nullptr ||
        std::tie(line.used, line.last_turn) < std::tie(next->used, next->last_turn)) {
      next = &line;
    }
  }
  return *next;
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
  Task task;
  Line* line = nullptr;
  {
    MutexLock lock(&mutex_);
    if (queued_ == 0) return false;
    line = &NextLine();
    line->last_turn = ++turns_;
    served_ = line->used;
    task = std::move(line->tasks.front());
    line->tasks.pop_front();
    --queued_;
  }
  FAIL_POINT("queue.take");
  const Clock::Monotonic start = clock_.MonotonicNow();
  task(device_);
  task = nullptr;  // What it holds goes before the next one runs.
  NoteFault(device_.backend().Fault());
  MutexLock lock(&mutex_);
  line->used += clock_.MonotonicNow() - start;
  return true;
}

}  // namespace mnemosyne::server
