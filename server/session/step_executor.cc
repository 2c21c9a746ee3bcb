#include "server/session/step_executor.h"

#include "base/error.h"
#include "base/status_macros.h"
#include "server/session/step_runner.h"

namespace mnemosyne::server {

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
  status = RunStep(step, session.rule(), device.backend());
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
