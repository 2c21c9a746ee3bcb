// Steps of several sessions that are ready at once: what each gets, however many share a call.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <latch>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/server/testing/test_bench.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using mnemosyne::testing::Notification;

// What became of a step.
struct Outcome {
  absl::Status status;
  std::vector<float> updates;
  double update_norm = 0;
};

// Sessions on a device.
class Sessions {
 public:
  explicit Sessions(const std::string& device) : bench_({}, int64_t{1} << 30, 64, {}, device) {}

  std::shared_ptr<Session> Create(const std::string& optimizer, int64_t elements,
                                  const std::string& tenant = "") {
    SessionSpec spec = SmallSpec(optimizer);
    spec.parameters.push_back({.name = "more", .shape = {elements}});
    Caller caller;
    caller.tenant = tenant;
    auto created = bench_.TryCreate(std::move(spec), std::to_string(++requests_), 0, caller);
    EXPECT_OK(created);
    return *std::move(created);
  }

  // The next step of each, all of them ready before the device takes the first. The gradient of
  // session k depends on k and the step; that of a session in `broken` has a NaN.
  std::vector<Outcome> StepTogether(const std::vector<std::shared_ptr<Session>>& sessions,
                                    const std::vector<size_t>& broken = {}) {
    Notification busy, released;
    EXPECT_OK(bench_.executor.Submit("", [&](StepExecutor::Device&) {
      busy.Notify();
      released.WaitForNotification();
    }));
    busy.WaitForNotification();
    std::vector<Outcome> outcomes(sessions.size());
    std::latch pending(static_cast<std::ptrdiff_t>(sessions.size()));
    for (size_t k = 0; k < sessions.size(); ++k) {
      const bool breaks = std::ranges::find(broken, k) != broken.end();
      Submit(sessions[k], k, breaks, outcomes[k], pending);
    }
    released.Notify();
    pending.wait();
    return outcomes;
  }

  std::vector<Outcome> StepApart(const std::vector<std::shared_ptr<Session>>& sessions) {
    std::vector<Outcome> outcomes(sessions.size());
    for (size_t k = 0; k < sessions.size(); ++k) {
      std::latch pending(1);
      Submit(sessions[k], k, false, outcomes[k], pending);
      pending.wait();
    }
    return outcomes;
  }

  const StepExecutor& executor() const { return bench_.executor; }

 private:
  void Submit(const std::shared_ptr<Session>& session, size_t k, bool breaks, Outcome& outcome,
              std::latch& pending) {
    const int64_t number = session->state().last_step + 1;
    std::vector<float> gradients(session->layout().element_count());
    for (size_t i = 0; i < gradients.size(); ++i) {
      gradients[i] = static_cast<float>((i * 37 + k * 53 + static_cast<size_t>(number) * 11) % 101);
    }
    if (breaks) gradients[1] = std::numeric_limits<float>::quiet_NaN();
    StepRequest request;
    request.number = number;
    auto step =
        PendingStep::FromLog(session, std::move(request), std::as_bytes(std::span(gradients)));
    ASSERT_OK(step);
    ASSERT_OK(bench_.executor.SubmitStep(
        *std::move(step), [session, &outcome, &pending](std::unique_ptr<PendingStep> done,
                                                        const absl::Status& status) {
          outcome.status = status;
          if (status.ok()) Read(*session, *done, outcome);
          pending.count_down();
        }));
  }

  static void Read(const Session& session, PendingStep& step, Outcome& outcome) {
    const auto* const updates = session.state().staging.as<float>();
    outcome.updates.assign(updates, updates + session.layout().arena_size());
    outcome.update_norm = step.outcome().update_norm;
  }

  TestBench bench_;
  int requests_ = 0;
};

class SharedStepsTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (const auto backend = kernels::CreateBackend(GetParam(), {.threads = 1}); !backend.ok()) {
      GTEST_SKIP() << backend.status();
    }
  }
};

std::vector<std::shared_ptr<Session>> SomeSessions(Sessions& at) {
  std::vector<std::shared_ptr<Session>> sessions;
  for (const int64_t elements : {1, 100, 5000, 100, 17, 9000}) {
    const std::string tenant = sessions.size() % 2 == 0 ? "even" : "odd";
    sessions.push_back(at.Create(elements == 17 ? "sgd" : "adamw", elements, tenant));
  }
  return sessions;
}

TEST_P(SharedStepsTest, GiveTheBitsOfEachAlone) {
  Sessions shared(GetParam()), alone(GetParam());
  const auto together = SomeSessions(shared), apart = SomeSessions(alone);
  for (int step = 0; step < 3; ++step) {
    const auto actual = shared.StepTogether(together), expected = alone.StepApart(apart);
    for (size_t k = 0; k < together.size(); ++k) {
      EXPECT_OK(actual[k].status);
      EXPECT_EQ(actual[k].updates, expected[k].updates) << "session " << k << ", step " << step;
      EXPECT_EQ(actual[k].update_norm, expected[k].update_norm);
    }
  }
  EXPECT_EQ(shared.executor().step_count(), 18);
  // Five at a time, and the one with another optimizer alone.
  EXPECT_EQ(shared.executor().share_counts()[0], 3);
  EXPECT_EQ(shared.executor().share_counts()[3], 3);
  EXPECT_EQ(alone.executor().share_counts()[0], 18);
}

TEST_P(SharedStepsTest, OneThatIsRefusedLeavesTheOthersAlone) {
  Sessions shared(GetParam()), alone(GetParam());
  const auto together = SomeSessions(shared), apart = SomeSessions(alone);
  const auto actual = shared.StepTogether(together, /*broken=*/{2}),
             expected = alone.StepApart(apart);
  for (size_t k = 0; k < together.size(); ++k) {
    if (k == 2) continue;
    EXPECT_OK(actual[k].status);
    EXPECT_EQ(actual[k].updates, expected[k].updates) << "session " << k;
  }
  EXPECT_EQ(ErrorReason(actual[2].status), "NON_FINITE");
  EXPECT_EQ(together[2]->state().last_step, 0);
  EXPECT_OK(together[2]->CheckUsable());
  const auto again = shared.StepTogether({together[2]});
  EXPECT_OK(again[0].status);
}

INSTANTIATE_TEST_SUITE_P(Devices, SharedStepsTest, ::testing::Values("apart:64", "cuda:0"),
                         [](const auto& device) {
                           return device.param == std::string("cuda:0") ? "cuda" : "apart";
                         });

TEST(SharedFaultTest, ADeviceThatFailsTakesAllWithIt) {
  Sessions at("failing:4");
  const std::vector<std::shared_ptr<Session>> sessions = {
      at.Create("adamw", 10), at.Create("adamw", 20), at.Create("adamw", 30)};
  for (const Outcome& outcome : at.StepTogether(sessions)) EXPECT_OK(outcome.status);
  for (const Outcome& outcome : at.StepTogether(sessions)) {
    EXPECT_EQ(ErrorReason(outcome.status), "DEVICE_FAULT");
  }
  for (const auto& session : sessions) EXPECT_OK(session->CheckUsable());
}

// Where steps of several take as long as one by one, none waits for another's.
TEST(UnsharedStepsTest, AreTakenOneByOne) {
  Sessions at("cpu");
  const auto sessions = SomeSessions(at);
  for (const Outcome& outcome : at.StepTogether(sessions)) EXPECT_OK(outcome.status);
  EXPECT_EQ(at.executor().share_counts()[0], 6);
}

}  // namespace
}  // namespace mnemosyne::server
