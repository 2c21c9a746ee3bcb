#include "server/session/device_set.h"

#include <cstdint>
#include <utility>

namespace mnemosyne::server {

DeviceSet::DeviceSet(std::vector<std::unique_ptr<kernels::Backend>> backends, size_t queue_max,
                     const MemoryBudget& budget, const Clock& clock, StepExecutor::Runner runner)
    : budget_(budget) {
  for (auto& backend : backends) {
    executors_.push_back(std::make_unique<StepExecutor>(std::move(backend), queue_max, clock,
                                                        executors_.size(), runner));
  }
}

absl::StatusOr<StepExecutor*> DeviceSet::Choose(const StepExecutor* preferred) const {
  StepExecutor* chosen = nullptr;
  int64_t most = 0;
  absl::Status fault;
  for (const auto& executor : executors_) {
    if (const absl::Status failed = executor->fault(); !failed.ok()) {
      fault = failed;
      continue;
    }
    const int64_t room = budget_.DeviceBytesLeft(executor->ordinal());
    if (chosen == nullptr || room > most || (room == most && executor.get() == preferred)) {
      chosen = executor.get();
      most = room;
    }
  }
  if (chosen == nullptr) return fault;
  return chosen;
}

bool DeviceSet::Stop() {
  bool all = true;
  for (const auto& executor : executors_) {
    if (executor->fault().ok()) {
      executor->Stop();
    } else {
      all = false;
    }
  }
  return all;
}

}  // namespace mnemosyne::server
