#include "server/session/step_runner.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/server/testing/test_bench.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

// Keeps the plan of its last step, and gives no updates.
class RecordingOptimizer final : public optim::Optimizer {
 public:
  explicit RecordingOptimizer(const optim::OptimizerInfo& info) : info_(info) {}

  const optim::OptimizerInfo& info() const override { return info_; }
  size_t StateBytes(const optim::ParameterLayout&) const override { return 0; }
  absl::StatusOr<std::unique_ptr<optim::OptimizerState>> Init(
      const optim::ParameterLayout&) override {
    return Internal("a recording optimizer has no state");
  }
  absl::Status Update(optim::OptimizerState&, const optim::StepPlan& given, float*,
                      std::span<double> square_sums) override {
    plan = given;
    std::fill(square_sums.begin(), square_sums.end(), 0.0);
    return absl::OkStatus();
  }
  absl::Status Replay(const optim::OptimizerState&, const optim::StepPlan&, float*,
                      std::span<double>) override {
    return absl::OkStatus();
  }
  optim::UpdateRule Rule(const optim::GroupStep&) const override { return {}; }

  optim::StepPlan plan;

 private:
  const optim::OptimizerInfo& info_;
};

// The plan that an optimizer gets for a step without gradients.
optim::StepPlan PlanOf(const std::shared_ptr<Session>& session, StepRequest request) {
  request.number = 1;
  request.absent_parameters = {0, 1};
  std::unique_ptr<Turnstile::Turn> turn;
  EXPECT_OK(session->turnstile().Ask([&](auto granted) { turn = std::move(granted); }));
  auto step = PendingStep::Begin(session, std::move(turn), std::move(request), DataType::kFloat32,
                                 /*accepts_loss=*/false);
  EXPECT_OK(step);
  RecordingOptimizer optimizer(session->optimizer());
  auto backend = kernels::CreateBackend("cpu", {.threads = 1});
  EXPECT_OK(backend);
  EXPECT_OK(RunStep(**step, optimizer, **backend));
  return optimizer.plan;
}

TEST(StepRunnerTest, HandsWhatTheClientTellsToTheOptimizer) {
  TestBench bench;
  SessionSpec spec = SmallSpec();
  spec.horizon = 500;

  StepRequest request;
  request.loss = 0.25;
  request.parameter_rms = {0.5F, 2};
  const optim::StepPlan plan = PlanOf(bench.Create(spec), request);

  EXPECT_EQ(plan.loss, 0.25);
  EXPECT_EQ(plan.horizon, 500);
  EXPECT_EQ(plan.parameter_rms, (std::vector<float>{0.5F, 2}));
}

TEST(StepRunnerTest, TellsNothingThatTheClientDoesNot) {
  TestBench bench;

  const optim::StepPlan plan = PlanOf(bench.Create(), {});

  EXPECT_EQ(plan.loss, std::nullopt);
  EXPECT_EQ(plan.horizon, std::nullopt);
  EXPECT_TRUE(plan.parameter_rms.empty());
}

TEST(StepRunnerTest, HandsOnALossThatIsNotFinite) {
  TestBench bench;
  StepRequest request;
  request.loss = std::numeric_limits<double>::quiet_NaN();

  const optim::StepPlan plan = PlanOf(bench.Create(), request);

  ASSERT_TRUE(plan.loss);
  EXPECT_TRUE(std::isnan(*plan.loss));
}

}  // namespace
}  // namespace mnemosyne::server
