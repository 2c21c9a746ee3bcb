#include "server/session/step_executor.h"

#include "base/error.h"
#include "base/status_macros.h"
#include "optim/optimizer_registry.h"
#include "server/session/step_runner.h"

namespace mnemosyne::server {

absl::StatusOr<optim::Optimizer*> StepExecutor::Device::GetOptimizer(std::string_view name,
                                                                     std::string_view version) {
  auto& optimizer = optimizers_[{std::string(name), std::string(version)}];
  if (optimizer == nullptr) {
    MNEMO_ASSIGN_OR_RETURN(optimizer, optim::CreateOptimizer(name, version, *backend_));
  }
  return optimizer.get();
}

StepExecutor::StepExecutor(std::unique_ptr<kernels::Backend> backend, size_t queue_max,
                           const Clock& clock)
    : queue_max_(queue_max),
      clock_(clock),
      device_name_(backend->name()),
      device_description_(backend->description()),
      device_(std::move(backend)),
      thread_([this] { Work(); }) {}

StepExecutor::~StepExecutor() { Stop(); }

absl::Status StepExecutor::Submit(Task task) {
  MutexLock lock(&mutex_);
  if (stopped_) {
    return WithReason(Unavailable("the daemon is shutting down; try again a little later"),
                      "SHUTTING_DOWN");
  }
  if (queue_.size() >= queue_max_) {
    return WithReason(ResourceExhausted("{} tasks already wait for device {}; try again a little "
                                        "later, or raise --queue-max",
                                        queue_.size(), device_name_),
                      "QUEUE_FULL");
  }
  queue_.push_back(std::move(task));
  return absl::OkStatus();
}

absl::Status StepExecutor::SubmitStep(std::unique_ptr<PendingStep> step, StepCallback done) {
  step->MarkEnd();
  // A task must be copyable, a step is not.
  auto shared = std::make_shared<std::unique_ptr<PendingStep>>(std::move(step));
  return Submit([this, shared, done = std::move(done)](Device& device) {
    absl::Status status;
    RunOne(**shared, status, device);
    done(std::move(*shared), status);
  });
}

void StepExecutor::RunOne(PendingStep& step, absl::Status& status, Device& device) {
  const Clock::Monotonic start = clock_.MonotonicNow();
  Session& session = step.session();
  const auto optimizer = device.GetOptimizer(session.optimizer().name, session.optimizer().version);
  status = optimizer.ok() ? RunStep(step, **optimizer, device.backend()) : optimizer.status();
  StepOutcome& outcome = step.outcome();
  outcome.receive_seconds = Seconds(step.end_time() - step.begin_time());
  outcome.queue_seconds = Seconds(start - step.end_time());
  outcome.compute_seconds = Seconds(clock_.MonotonicNow() - start);
  if (status.ok()) step_count_.fetch_add(1, std::memory_order_relaxed);
  if (status.code() == absl::StatusCode::kInternal) session.Quarantine(status);
}

void StepExecutor::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

size_t StepExecutor::queue_length() const {
  MutexLock lock(&mutex_);
  return queue_.size();
}

void StepExecutor::Work() {
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopped_ || !queue_.empty();
  };
  while (true) {
    Task task;
    {
      MutexLock lock(&mutex_);
      lock.Await(ready);
      if (queue_.empty()) return;  // Stopped, and all is done.
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task(device_);
  }
}

}  // namespace mnemosyne::server
