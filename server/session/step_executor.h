// The worker of a device: it owns the backend and the optimizers, and runs what is queued, in
// order.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "kernels/backend.h"
#include "optim/optimizer_factory.h"
#include "server/session/pending_step.h"

namespace mnemosyne::server {

// Thread-safety: thread-safe. Destroying it finishes what is queued.
class StepExecutor {
 public:
  // What a task may use, on the executor's thread.
  class Device {
   public:
    explicit Device(std::unique_ptr<kernels::Backend> backend) : backend_(std::move(backend)) {}

    kernels::Backend& backend() { return *backend_; }

    // The optimizer that `factory` makes, shared by all who ask while one of them still holds it.
    // It holds its factory, and must not outlive the device. ResourceExhausted if the device has no
    // room for its weights.
    absl::StatusOr<std::shared_ptr<optim::Optimizer>> GetOptimizer(
        const optim::OptimizerFactoryPtr& factory);

   private:
    std::unique_ptr<kernels::Backend> backend_;
    std::map<const optim::OptimizerFactory*, std::weak_ptr<optim::Optimizer>> optimizers_;
  };

  using Task = std::function<void(Device&)>;

  // What becomes of a step: the step comes back with its outcome, and the status says whether it
  // was applied or answered.
  using StepCallback = std::function<void(std::unique_ptr<PendingStep>, const absl::Status&)>;

  // `queue_max` bounds the tasks that wait.
  StepExecutor(std::unique_ptr<kernels::Backend> backend, size_t queue_max, const Clock& clock);
  ~StepExecutor();

  StepExecutor(const StepExecutor&) = delete;
  StepExecutor& operator=(const StepExecutor&) = delete;

  // Queues a task. ResourceExhausted with reason QUEUE_FULL if too many wait already, Unavailable
  // with reason SHUTTING_DOWN after Stop.
  absl::Status Submit(Task task);

  // Queues a complete step and calls `done` on the executor's thread. A step that fails with
  // Internal quarantines its session. Errors as Submit; then the step is dropped.
  absl::Status SubmitStep(std::unique_ptr<PendingStep> step, StepCallback done);

  // Takes no more tasks; waits until those queued are done.
  void Stop();

  const std::string& device_name() const { return device_name_; }
  const std::string& device_description() const { return device_description_; }
  int64_t step_count() const { return step_count_.load(std::memory_order_relaxed); }
  size_t queue_length() const;

 private:
  void Work();
  void RunOne(PendingStep& step, absl::Status& status, Device& device);

  const size_t queue_max_;
  const Clock& clock_;
  const std::string device_name_;
  const std::string device_description_;
  std::atomic<int64_t> step_count_ = 0;

  mutable Mutex mutex_;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;

  Device device_;  // Touched only on thread_.
  std::thread thread_;
};

}  // namespace mnemosyne::server
