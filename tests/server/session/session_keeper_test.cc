// Sessions that move among a device with a memory of its own, the host's memory and the disk.
#include "server/session/session_keeper.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "server/session/device_call.h"
#include "server/session/pending_step.h"
#include "server/session/step_runner.h"
#include "tests/server/testing/test_bench.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using Tier = Session::Tier;

constexpr int64_t kPlenty = int64_t{1} << 30;
constexpr int64_t kElements = 5000;
constexpr std::chrono::seconds kIdle(100'000);

SessionSpec SpecOf(const std::string& optimizer, Durability durability) {
  SessionSpec spec = SmallSpec(optimizer);
  spec.parameters.push_back({.name = "large", .shape = {kElements}});
  spec.durability = durability;
  return spec;
}

// A daemon without its network, on a device and a state folder. Without an orderly end, what it
// leaves behind is what a crash leaves.
class Daemon {
 public:
  Daemon(const std::filesystem::path& folder, const std::string& device, int64_t host_max = kPlenty,
         int64_t device_max = kPlenty, int64_t park_seconds = 0)
      : bench_({}, host_max, 64, {}, device, device_max) {
    auto opened = StateFolder::Open(folder);
    EXPECT_OK(opened);
    keeper_ = std::make_unique<SessionKeeper>(
        *std::move(opened),
        KeeperOptions{.snapshot_seconds = 0, .buffer_bytes = 1 << 16, .park_seconds = park_seconds},
        bench_.budget, bench_.devices, bench_.clock);
    bench_.store.SetKeeper(keeper_.get());
    bench_.store.Restore();
  }

  std::shared_ptr<Session> Create(const std::string& optimizer,
                                  Durability durability = Durability::kSnapshot) {
    bench_.clock.Advance(std::chrono::seconds(1));
    auto created = bench_.TryCreate(SpecOf(optimizer, durability), std::to_string(++requests_));
    EXPECT_OK(created);
    return created.ok() ? *std::move(created) : nullptr;
  }

  std::shared_ptr<Session> Find(const std::string& name) {
    auto found = bench_.store.Find({}, name);
    EXPECT_OK(found);
    return *std::move(found);
  }

  // The session's turn, with the state where it steps.
  std::unique_ptr<Turnstile::Turn> TurnOf(const std::shared_ptr<Session>& session) {
    bench_.clock.Advance(std::chrono::seconds(1));
    mnemosyne::testing::Notification done;
    std::unique_ptr<Turnstile::Turn> turn;
    EXPECT_OK(bench_.store.AskTurn(session, [&](auto granted) {
      EXPECT_OK(granted);
      if (granted.ok()) turn = *std::move(granted);
      done.Notify();
    }));
    done.WaitForNotification();
    return turn;
  }

  // The next step, whose gradient depends on its number alone.
  std::unique_ptr<PendingStep> NextStep(const std::shared_ptr<Session>& session) {
    const int64_t number = session->state().last_step + 1;
    std::vector<float> gradients(session->layout().element_count());
    for (size_t k = 0; k < gradients.size(); ++k) {
      gradients[k] = static_cast<float>((k * 37 + static_cast<size_t>(number) * 11) % 101) - 50;
    }
    StepRequest request;
    request.number = number;
    auto step =
        PendingStep::FromLog(session, std::move(request), std::as_bytes(std::span(gradients)));
    EXPECT_OK(step);
    return *std::move(step);
  }

  // Takes the next step as a stream does; what became of it.
  absl::Status SubmitStep(const std::shared_ptr<Session>& session) {
    const auto turn = TurnOf(session);
    mnemosyne::testing::Notification done;
    absl::Status result;
    EXPECT_OK(session->executor().SubmitStep(
        NextStep(session), [&](std::unique_ptr<PendingStep>, const absl::Status& status) {
          result = status;
          done.Notify();
        }));
    done.WaitForNotification();
    return result;
  }

  // Takes the next steps, whose gradients depend on their numbers alone; the last updates.
  std::vector<float> Step(const std::shared_ptr<Session>& session, int count = 1) {
    std::vector<float> updates(session->layout().arena_size());
    for (int i = 0; i < count; ++i) {
      const auto turn = TurnOf(session);
      const auto step = NextStep(session);
      EXPECT_OK(CallDevice(session->executor(), [&](StepExecutor::Device& device) {
        return RunStep(*step, session->rule(), device.backend());
      }));
      if (session->state().log != nullptr) {
        EXPECT_OK(session->state().log->Sync());
      }
      const auto* const staging = session->state().staging.as<float>();
      std::copy(staging, staging + updates.size(), updates.begin());
    }
    return updates;
  }

  // The bits of the state, wherever it comes from.
  std::vector<std::byte> Bits(const std::shared_ptr<Session>& session) {
    const auto turn = TurnOf(session);
    std::vector<std::byte> bits;
    EXPECT_OK(CallDevice(session->executor(), [&](StepExecutor::Device& device) -> absl::Status {
      for (const optim::StateTensor& tensor : session->state().optimizer->Tensors()) {
        const size_t at = bits.size();
        bits.resize(at + tensor.byte_count);
        const absl::Status copied =
            device.backend().Download(tensor.data, bits.data() + at, tensor.byte_count);
        if (!copied.ok()) return copied;
      }
      return absl::OkStatus();
    }));
    return bits;
  }

  int64_t DeviceBytesFree() {
    int64_t bytes = 0;
    EXPECT_OK(CallDevice(bench_.executor, [&](StepExecutor::Device& device) {
      bytes = static_cast<int64_t>(device.backend().FreeMemory().value_or(0));
      return absl::OkStatus();
    }));
    return bytes;
  }

  void Snapshot(const std::shared_ptr<Session>& session) {
    mnemosyne::testing::Notification done;
    keeper_->Snapshot(session, {}, 0, [&](const absl::StatusOr<int64_t>& step) {
      EXPECT_OK(step);
      done.Notify();
    });
    done.WaitForNotification();
  }

  // Lets time pass.
  void Wait(std::chrono::seconds time) { bench_.clock.Advance(time); }

  SessionKeeper& keeper() { return *keeper_; }
  const MemoryBudget& budget() const { return bench_.budget; }
  SessionStore& store() { return bench_.store; }
  const DeviceSet& devices() const { return bench_.devices; }

 private:
  TestBench bench_;
  std::unique_ptr<SessionKeeper> keeper_;
  int requests_ = 0;
};

// What sessions reserve on the device and in host memory, while they step there and away from it.
struct Sizes {
  MemoryAmounts resident, parked;
};

Sizes SizesOf(const std::filesystem::path& folder, const std::string& device,
              const std::string& optimizer) {
  Daemon daemon(folder, device);
  const auto session = daemon.Create(optimizer);
  return {session->resident_memory(), session->parked_memory()};
}

// A test with folders of its own.
class FolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/tiersXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }

  void TearDown() override {
    if (!root_.empty()) std::filesystem::remove_all(root_);
  }

  std::filesystem::path NewFolder() { return root_ / std::to_string(++folders_); }

  std::filesystem::path root_;

 private:
  int folders_ = 0;
};

// On the CPU with a memory that passes for one of its own, and on a GPU where there is one.
class TierTest : public FolderTest, public ::testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    const auto backend = kernels::CreateBackend(GetParam());
    if (absl::IsFailedPrecondition(backend.status())) GTEST_SKIP() << backend.status();
    ASSERT_OK(backend);
    FolderTest::SetUp();
  }

  // What a crash would leave of a folder that a daemon uses now.
  std::filesystem::path LeftOf(const std::filesystem::path& folder) {
    const std::filesystem::path left = NewFolder();
    std::filesystem::copy(folder, left, std::filesystem::copy_options::recursive);
    return left;
  }
};

TEST_P(TierTest, ASessionMakesRoomOnTheDeviceAndComesBackWithTheSameBits) {
  for (const std::string optimizer : {"adamw", "adam", "lion", "sgd"}) {
    SCOPED_TRACE(optimizer);
    const Sizes sizes = SizesOf(NewFolder(), GetParam(), optimizer);
    ASSERT_GT(sizes.resident.device, 0);
    Daemon roomy(NewFolder(), GetParam());
    const auto twin = roomy.Create(optimizer);
    // Room for one session on the device, and for all in host memory.
    Daemon daemon(NewFolder(), GetParam(), kPlenty, sizes.resident.device);
    const auto first = daemon.Create(optimizer);
    daemon.Step(first, 3);
    const int64_t free_with_one = daemon.DeviceBytesFree();

    const auto second = daemon.Create(optimizer);
    EXPECT_EQ(first->tier(), Tier::kParked);
    EXPECT_EQ(second->tier(), Tier::kResident);
    EXPECT_EQ(first->reserved_bytes(), sizes.parked.host);
    if (GetParam() != "cuda:0") {
      EXPECT_EQ(daemon.DeviceBytesFree(), free_with_one);
    }
    daemon.Step(second, 5);

    EXPECT_EQ(daemon.Step(first, 2), roomy.Step(twin, 5));
    EXPECT_EQ(daemon.Bits(first), roomy.Bits(twin));
    EXPECT_EQ(second->tier(), Tier::kParked);
    EXPECT_EQ(daemon.Bits(second), roomy.Bits(twin));
    const KeeperHealth health = daemon.keeper().health();
    EXPECT_EQ(health.park_count, 3);
    EXPECT_EQ(health.unpark_count, 2);
    EXPECT_EQ(health.eviction_count, 0);
    EXPECT_EQ(health.resident_count, 1);
    EXPECT_EQ(health.parked_count, 1);
  }
}

TEST_P(TierTest, UnderPressureOfTheHostSessionsGoOnToTheDisk) {
  const Sizes sizes = SizesOf(NewFolder(), GetParam(), "adamw");
  // Room for one on the device, and one beside it in host memory.
  const int64_t host_max = sizes.resident.host + sizes.parked.host + sizes.resident.host;
  Daemon daemon(NewFolder(), GetParam(), host_max, sizes.resident.device);
  Daemon roomy(NewFolder(), GetParam());
  const auto twin = roomy.Create("adamw");
  const std::vector<float> expected = roomy.Step(twin, 6);

  std::vector<std::shared_ptr<Session>> sessions;
  for (int i = 0; i < 4; ++i) sessions.push_back(daemon.Create("adamw"));
  for (int round = 0; round < 3; ++round) {
    for (const auto& session : sessions) {
      const std::vector<float> updates = daemon.Step(session, 2);
      if (round == 2) {
        EXPECT_EQ(updates, expected);
      }
    }
  }

  for (const auto& session : sessions) EXPECT_EQ(daemon.Bits(session), roomy.Bits(twin));
  const KeeperHealth health = daemon.keeper().health();
  EXPECT_GT(health.park_count, 0);
  EXPECT_GT(health.unpark_count + health.load_count, 8);
  EXPECT_GT(health.eviction_count, 0);
  EXPECT_GT(health.load_count, 0);
  EXPECT_EQ(health.resident_count + health.parked_count + health.on_disk_count, 4);
  EXPECT_EQ(health.failure_count, 0);
  EXPECT_LE(daemon.budget().bytes_reserved(), host_max);
}

TEST_P(TierTest, WhereHostMemoryIsShortASessionGoesStraightToTheDisk) {
  const Sizes sizes = SizesOf(NewFolder(), GetParam(), "adamw");
  Daemon daemon(NewFolder(), GetParam(), 2 * sizes.resident.host, sizes.resident.device);
  const auto first = daemon.Create("adamw");
  daemon.Step(first, 2);
  const auto second = daemon.Create("adamw");
  EXPECT_EQ(first->tier(), Tier::kDisk);
  EXPECT_EQ(first->reserved_bytes(), 0);
  EXPECT_TRUE(second->resident());
  daemon.Step(first);
  EXPECT_EQ(first->state().last_step, 3);
}

TEST_P(TierTest, ACrashLeavesWhatTheDiskHasAndNoMore) {
  const Sizes sizes = SizesOf(NewFolder(), GetParam(), "adamw");
  Daemon roomy(NewFolder(), GetParam());
  const auto twin = roomy.Create("adamw");
  roomy.Step(twin, 3);
  const std::vector<std::byte> third = roomy.Bits(twin);
  roomy.Step(twin, 2);

  const std::filesystem::path folder = NewFolder();
  Daemon daemon(folder, GetParam(), kPlenty, sizes.resident.device);
  const auto plain = daemon.Create("adamw");
  daemon.Step(plain, 3);
  daemon.Snapshot(plain);
  const auto logged = daemon.Create("adamw", Durability::kStep);
  daemon.Step(plain, 2);
  daemon.Step(logged, 5);
  daemon.Create("adamw");
  ASSERT_EQ(plain->tier(), Tier::kParked);
  ASSERT_EQ(logged->tier(), Tier::kParked);

  Daemon next(LeftOf(folder), GetParam());
  EXPECT_EQ(next.Bits(next.Find(plain->name())), third);  // The steps since are the client's.
  EXPECT_EQ(next.Find(plain->name())->state().last_step, 3);
  EXPECT_EQ(next.Bits(next.Find(logged->name())), roomy.Bits(twin));

  // A parked state gets its snapshots as any other, and steps that follow are logged.
  daemon.Snapshot(plain);
  daemon.Step(logged);
  daemon.Create("adamw");
  roomy.Step(twin);
  Daemon last(LeftOf(folder), GetParam());
  EXPECT_EQ(last.Find(plain->name())->progress().last_step, 5);
  EXPECT_EQ(last.Bits(last.Find(logged->name())), roomy.Bits(twin));
  last.Step(last.Find(plain->name()));
  EXPECT_EQ(last.Bits(last.Find(plain->name())), roomy.Bits(twin));
}

TEST_P(TierTest, SnapshotsMoveBetweenTheCpuAndTheDevice) {
  for (const std::string optimizer : {"adamw", "lion", "sgd"}) {
    SCOPED_TRACE(optimizer);
    const std::filesystem::path folder = NewFolder();
    std::string name;
    std::vector<std::byte> bits;
    // Wherever the session stepped last, the state comes over with its bits.
    for (const std::string& device : {std::string("cpu"), GetParam(), std::string("cpu")}) {
      SCOPED_TRACE(device);
      Daemon daemon(folder, device);
      const auto session = name.empty() ? daemon.Create(optimizer) : daemon.Find(name);
      if (!name.empty()) {
        EXPECT_EQ(daemon.Bits(session), bits);
      }
      daemon.Step(session, 3);
      bits = daemon.Bits(session);
      name = session->name();
      daemon.Snapshot(session);
    }
    EXPECT_FALSE(bits.empty());
  }
}

TEST_P(TierTest, IdleSessionsAreParkedAndADeviceThatIsFullLetsThemGo) {
  if (GetParam() == "cuda:0") GTEST_SKIP() << "a GPU has too much memory to fill";
  // The device has no more than its budget says, and sessions are parked when they idle.
  Daemon daemon(NewFolder(), "apart:1", kPlenty, kPlenty, /*park_seconds=*/kIdle.count());
  std::vector<std::shared_ptr<Session>> sessions = {daemon.Create("adamw")};
  const int64_t each = sessions[0]->resident_memory().device;
  while (daemon.DeviceBytesFree() >= each) sessions.push_back(daemon.Create("adamw"));
  daemon.Wait(kIdle);
  for (const auto& session : sessions) {
    while (session->resident()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(daemon.keeper().health().parked_count, static_cast<int64_t>(sessions.size()));

  sessions.push_back(daemon.Create("adamw"));
  std::vector<std::vector<float>> updates;
  for (const auto& session : sessions) updates.push_back(daemon.Step(session));
  EXPECT_EQ(std::set(updates.begin(), updates.end()).size(), 1);
  EXPECT_EQ(daemon.keeper().health().parked_count, 1);
  EXPECT_EQ(daemon.keeper().health().failure_count, 0);
}

// Two devices: of the tests, and GPUs where there are two.
struct TwoDevices {
  std::string first, second;
  std::string list() const { return first + "," + second; }
};

class PlacementTest : public FolderTest, public ::testing::WithParamInterface<TwoDevices> {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    for (const std::string& name : {GetParam().first, GetParam().second}) {
      const auto backend = kernels::CreateBackend(name);
      if (absl::IsFailedPrecondition(backend.status())) GTEST_SKIP() << backend.status();
    }
  }
};

TEST_P(PlacementTest, ASessionGoesToTheDeviceWithTheMostRoomAndMayComeBackToAnother) {
  const auto& [one, other] = GetParam();
  Daemon daemon(NewFolder(), GetParam().list(), kPlenty, kPlenty, /*park_seconds=*/kIdle.count());
  const auto first = daemon.Create("adamw"), second = daemon.Create("adamw"),
             third = daemon.Create("adamw");
  EXPECT_EQ(first->device(), one);
  EXPECT_EQ(second->device(), other);
  EXPECT_EQ(third->device(), one);
  EXPECT_EQ(daemon.budget().device_bytes_reserved(0), 2 * first->resident_memory().device);
  EXPECT_EQ(daemon.budget().device_bytes_reserved(1), second->resident_memory().device);
  const std::vector<float> updates = daemon.Step(first, 2);
  const std::vector<std::byte> bits = daemon.Bits(first);

  daemon.Wait(kIdle);
  for (const auto& session : {first, second, third}) {
    while (session->resident()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  daemon.Step(third);  // Both have the same room: it stays.
  EXPECT_EQ(third->device(), one);
  EXPECT_EQ(daemon.Bits(first), bits);
  EXPECT_EQ(first->device(), other);
  EXPECT_EQ(daemon.Step(second, 2), updates);
  EXPECT_EQ(daemon.Step(first), daemon.Step(second));
  EXPECT_EQ(daemon.keeper().health().failure_count, 0);
}

INSTANTIATE_TEST_SUITE_P(Devices, PlacementTest,
                         ::testing::Values(TwoDevices{"apart:64", "apart:96"},
                                           TwoDevices{"cuda:0", "cuda:1"}),
                         [](const auto& devices) {
                           return devices.param.first == "cuda:0" ? "cuda" : "apart";
                         });

class DevicesTest : public FolderTest {};

TEST_F(DevicesTest, ASessionLeavesADeviceThatFailedAndTheOthersGoOn) {
  Daemon daemon(NewFolder(), "failing:3,apart:64");
  const auto failing = daemon.Create("adamw"), idle = daemon.Create("adamw"),
             third = daemon.Create("adamw");
  ASSERT_EQ(failing->device(), "failing:3");
  ASSERT_EQ(idle->device(), "apart:64");
  ASSERT_EQ(third->device(), "failing:3");
  EXPECT_OK(daemon.SubmitStep(idle));
  EXPECT_OK(daemon.SubmitStep(failing));
  daemon.Snapshot(failing);
  EXPECT_OK(daemon.SubmitStep(failing));

  absl::Status failing_evicted, third_evicted;
  EXPECT_OK(failing->Take([&](const absl::Status& why) { failing_evicted = why; }));
  EXPECT_OK(third->Take([&](const absl::Status& why) { third_evicted = why; }));
  const absl::Status failed = daemon.SubmitStep(failing);
  EXPECT_EQ(failed.code(), absl::StatusCode::kUnavailable) << failed;
  EXPECT_EQ(ErrorReason(failed), "DEVICE_FAULT");
  EXPECT_FALSE(daemon.devices()[0].fault().ok());
  EXPECT_OK(daemon.SubmitStep(idle));

  // It goes on from its snapshot, as does one that was not stepping.
  EXPECT_OK(daemon.SubmitStep(failing));
  EXPECT_EQ(failing->state().last_step, 2);
  EXPECT_EQ(failing->device(), "apart:64");
  EXPECT_EQ(daemon.Bits(failing), daemon.Bits(idle));
  EXPECT_OK(daemon.SubmitStep(third));
  EXPECT_EQ(third->device(), "apart:64");
  EXPECT_EQ(ErrorReason(failing_evicted), "DEVICE_FAULT");
  EXPECT_EQ(ErrorReason(third_evicted), "DEVICE_FAULT");
  EXPECT_EQ(daemon.Create("adamw")->device(), "apart:64");
  EXPECT_EQ(daemon.budget().device_bytes_reserved(0), 0);
}

TEST_F(DevicesTest, WithoutADeviceThatWorksNothingIsServedAndTheCauseIsTold) {
  Daemon daemon(NewFolder(), "failing:1");
  const auto session = daemon.Create("adamw");
  EXPECT_EQ(ErrorReason(daemon.SubmitStep(session)), "DEVICE_FAULT");
  mnemosyne::testing::Notification done;
  EXPECT_OK(daemon.store().AskTurn(session, [&](const auto& turn) {
    EXPECT_EQ(ErrorReason(turn.status()), "DEVICE_FAULT");
    EXPECT_TRUE(absl::IsUnavailable(turn.status())) << turn.status();
    done.Notify();
  }));
  done.WaitForNotification();
  EXPECT_OK(session->CheckUsable());
}

TEST_F(DevicesTest, ASessionThatIsNotKeptIsLostWithItsDevice) {
  TestBench bench({}, kPlenty, 64, {}, "failing:1,apart:64");
  const auto session = bench.Create();
  mnemosyne::testing::Notification done;
  EXPECT_OK(CallDevice(session->executor(), [&](StepExecutor::Device& device) {
    std::byte number{};
    EXPECT_FALSE(device.backend().Upload(&number, &number, 1).ok());
    return absl::OkStatus();
  }));
  while (session->executor().fault().ok()) std::this_thread::yield();
  EXPECT_OK(bench.store.AskTurn(session, [&](const auto& turn) {
    EXPECT_EQ(ErrorReason(turn.status()), "SESSION_FAULTED");
    done.Notify();
  }));
  done.WaitForNotification();
  EXPECT_EQ(bench.Create()->device(), "apart:64");
}

INSTANTIATE_TEST_SUITE_P(Devices, TierTest, ::testing::Values("apart:64", "cuda:0"),
                         [](const auto& device) {
                           return device.param == "cuda:0" ? "cuda" : "apart";
                         });

}  // namespace
}  // namespace mnemosyne::server
