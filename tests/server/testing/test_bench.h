// What a daemon is made of, without the network: devices with their executors, and a store.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "kernels/backend.h"
#include "server/model/model_registry.h"
#include "server/session/device_set.h"
#include "server/session/memory_budget.h"
#include "server/session/session_store.h"
#include "server/session/step_executor.h"
#include "tests/testing/notification.h"

namespace mnemosyne::server {

// A spec with parameters `weight` [2, 3] and `bias` [3].
inline SessionSpec SmallSpec(std::string optimizer = "adamw") {
  SessionSpec spec;
  spec.optimizer = std::move(optimizer);
  spec.parameters.push_back({.name = "weight", .shape = {2, 3}});
  spec.parameters.push_back({.name = "bias", .shape = {3}});
  return spec;
}

// The backends of a list such as `apart:64,apart:96`.
inline size_t CountDevices(const std::string& list) {
  return static_cast<size_t>(std::ranges::count(list, ',')) + 1;
}
inline std::vector<std::unique_ptr<kernels::Backend>> MakeBackends(const std::string& list) {
  std::vector<std::unique_ptr<kernels::Backend>> backends;
  std::istringstream names(list);
  for (std::string name; std::getline(names, name, ',');) {
    backends.push_back(*kernels::CreateBackend(name, {.threads = 1}));
  }
  return backends;
}

class TestBench {
 public:
  explicit TestBench(SessionLimits limits = {}, int64_t memory_max = int64_t{1} << 30,
                     size_t queue_max = 64, std::vector<std::filesystem::path> model_folders = {},
                     const std::string& device = "cpu",
                     int64_t device_memory_max = std::numeric_limits<int64_t>::max())
      : budget(memory_max, std::vector<int64_t>(CountDevices(device), device_memory_max)),
        quotas([this](std::string_view) { return tenant_limits; }, clock),
        models(std::move(model_folders)),
        devices(MakeBackends(device), queue_max, budget, clock),
        executor(devices[0]),
        store(limits, budget, quotas, models, devices, clock) {}

  absl::StatusOr<std::shared_ptr<Session>> TryCreate(SessionSpec spec,
                                                     const std::string& request_id,
                                                     uint64_t fingerprint = 0,
                                                     const Caller& caller = {}) {
    mnemosyne::testing::Notification done;
    absl::StatusOr<std::shared_ptr<Session>> result;
    store.Create(caller, request_id, fingerprint, std::move(spec), [&](auto created) {
      result = std::move(created);
      done.Notify();
    });
    done.WaitForNotification();
    return result;
  }

  std::shared_ptr<Session> Create(SessionSpec spec = SmallSpec()) {
    auto created = TryCreate(std::move(spec), "request " + std::to_string(++requests_));
    EXPECT_TRUE(created.ok()) << created.status();
    return *std::move(created);
  }

  // Waits until the executor has done all that was queued before.
  void Settle() {
    mnemosyne::testing::Notification done;
    while (!executor.Submit("", [&](StepExecutor::Device&) { done.Notify(); }).ok()) {
      std::this_thread::yield();  // The queue is full for a moment.
    }
    done.WaitForNotification();
  }

  FakeClock clock;
  TenantLimits tenant_limits;
  MemoryBudget budget;
  TenantQuotas quotas;
  ModelRegistry models;
  DeviceSet devices;
  StepExecutor& executor;  // Of the first device.
  SessionStore store;

 private:
  int requests_ = 0;
};

}  // namespace mnemosyne::server
