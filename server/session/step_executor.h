// The worker of a device: it owns the backend and the optimizers, and runs what is queued: in order
// for a tenant, and in turns among tenants.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "kernels/backend.h"
#include "optim/optimizer_factory.h"
#include "server/session/pending_step.h"

namespace mnemosyne::server {

// Each tenant has a line of its own. The next task is that of the tenant which has had the least of
// the device's time since it began to wait, so that a greedy tenant slows itself.
//
// On a device where steps of several sessions take less together, a step whose turn it is takes
// along those of the same optimizer that stand first in a line, as far as they are small; it waits
// for none. Each tenant is charged its share of the time, by elements.
//
// Thread-safety: thread-safe. Destroying it finishes what is queued.
class StepExecutor {
 public:
  static constexpr size_t kShareCount = 11;

  // What a task may use, on the thread that runs it.
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

  // Who runs the tasks: a thread of the executor, or whoever calls RunNext.
  enum class Runner { kOwnThread, kCaller };

  // `queue_max` bounds the tasks that wait; `ordinal` is its place among the daemon's devices.
  StepExecutor(std::unique_ptr<kernels::Backend> backend, size_t queue_max, const Clock& clock,
               size_t ordinal = 0, Runner runner = Runner::kOwnThread);
  ~StepExecutor();

  StepExecutor(const StepExecutor&) = delete;
  StepExecutor& operator=(const StepExecutor&) = delete;

  // Queues a task for a tenant. ResourceExhausted with reason QUEUE_FULL if too many wait already,
  // or if half of all that may wait are of this tenant, where it has a name; Unavailable with
  // reason SHUTTING_DOWN after Stop.
  absl::Status Submit(const std::string& tenant, Task task);

  // Queues a complete step and calls `done` on the executor's thread. A step that fails with
  // Internal quarantines its session; one that meets a device that failed gets fault(). Errors as
  // Submit; then the step is dropped.
  absl::Status SubmitStep(std::unique_ptr<PendingStep> step, StepCallback done);

  // Runs the next task on this thread; false if none waits. Only of an executor without a thread,
  // one call at a time: a test or a fuzzer decides with it when the device works.
  bool RunNext();

  // Takes no more tasks; returns once those queued are done.
  void Stop();

  // Ok while the device works; afterwards Unavailable with reason DEVICE_FAULT, for good. Tasks are
  // run nevertheless: they may free what is on the device, but get nothing from it.
  absl::Status fault() const;

  size_t ordinal() const { return ordinal_; }
  const std::string& device_name() const { return device_name_; }
  const std::string& device_description() const { return device_description_; }
  // Whether the device's memory is not the host's.
  bool has_own_memory() const { return has_own_memory_; }
  int64_t step_count() const { return step_count_.load(std::memory_order_relaxed); }
  // How often steps were taken together: entry k counts calls for at most 2^k sessions, and more
  // than half as many. The last one counts all that are larger.
  std::array<int64_t, kShareCount> share_counts() const;
  size_t queue_length() const;

 private:
  // What waits: a task, or a step with its callback.
  struct Entry {
    Task task;
    std::unique_ptr<PendingStep> step;
    StepCallback done;
    const optim::Optimizer* rule = nullptr;  // That of the step; null if it takes none along.
    size_t elements = 0;                     // Of the step's session.
  };

  // What waits of a tenant.
  struct Line {
    std::deque<Entry> entries;
    Clock::Monotonic::duration used{0};  // Of the device's time.
    uint64_t last_turn = 0;
  };

  // What is run at once: a task, or steps of one optimizer.
  struct Batch {
    std::vector<Entry> entries;
    std::vector<std::pair<Line*, size_t>> shares;  // The line that each is from, and its elements.
    size_t elements = 0;
  };

  absl::Status Queue(const std::string& tenant, Entry entry);
  void Work();
  void NoteFault(const absl::Status& cause);
  Line& NextLine() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Take(Line& line, Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Batch TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Charge(const Batch& batch, Clock::Monotonic::duration time)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // On thread_.
  void RunBatch(Batch& batch);
  void RunEntries(std::span<Entry> entries);
  absl::Status Settle(PendingStep& step, absl::Status status);
  static void Finish(Entry entry, const absl::Status& status);

  const size_t queue_max_;
  const Clock& clock_;
  const size_t ordinal_;
  const std::string device_name_;
  const std::string device_description_;
  const bool has_own_memory_;
  const bool shares_launches_;
  std::atomic<int64_t> step_count_ = 0;
  std::array<std::atomic<int64_t>, kShareCount> share_counts_ = {};

  mutable Mutex mutex_;
  std::map<std::string, Line, std::less<>> lines_ ABSL_GUARDED_BY(mutex_);  // By tenant.
  Clock::Monotonic::duration served_ ABSL_GUARDED_BY(mutex_){0};  // What the line served last had.
  size_t queued_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t turns_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status fault_ ABSL_GUARDED_BY(mutex_);

  Device device_;       // Touched only by the task that runs.
  std::thread thread_;  // None with Runner::kCaller.
};

}  // namespace mnemosyne::server
