// The devices that sessions step on, each with its worker, and where a session goes among them.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/backend.h"
#include "server/session/memory_budget.h"
#include "server/session/step_executor.h"

namespace mnemosyne::server {

// Thread-safe. The budget, which has a bound for each device, and the clock outlive it.
class DeviceSet {
 public:
  // At least one backend; several have memories of their own. `queue_max` and `runner` are of each
  // worker.
  DeviceSet(std::vector<std::unique_ptr<kernels::Backend>> backends, size_t queue_max,
            const MemoryBudget& budget, const Clock& clock,
            StepExecutor::Runner runner = StepExecutor::Runner::kOwnThread);

  size_t size() const { return executors_.size(); }
  StepExecutor& operator[](size_t ordinal) const { return *executors_[ordinal]; }

  // The device with the most room for sessions of those that work; among equals `preferred`, which
  // may be null, then the first. Unavailable with reason DEVICE_FAULT if none works.
  absl::StatusOr<StepExecutor*> Choose(const StepExecutor* preferred = nullptr) const;

  // Takes no more tasks; waits until those queued are done. False if a device has failed: it is
  // left alone, since what a driver still has to say of it may never come.
  bool Stop();

 private:
  const MemoryBudget& budget_;
  std::vector<std::unique_ptr<StepExecutor>> executors_;
};

}  // namespace mnemosyne::server
