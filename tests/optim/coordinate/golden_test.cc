// The coordinate-wise optimizer against what metatrain computed with the same weights.
#include "tests/optim/golden.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>

#include "tests/optim/learned_run.h"
#include "tests/testing/model_files.h"

namespace mnemosyne::optim {
namespace {

constexpr const char* kName = "mnemosyne-coordinate";
constexpr size_t kTile = 16;

struct GoldenParam {
  std::string version;
  std::string plan;
  std::string where;  // As BackendOf() has it.

  // GoogleTest shows a parameter with this.
  friend void PrintTo(const GoldenParam& param, std::ostream* out) {
    *out << param.version << " " << param.plan << " " << param.where;
  }
};

// All numbers of a slot, parameter by parameter; those of a memory element by element.
std::vector<float> Slot(LearnedRun& run, std::string_view name, size_t numbers) {
  std::vector<float> all;
  for (const StateTensor& tensor : run.state().Tensors()) {
    if (tensor.slot != name) continue;
    const std::string bytes = run.Bytes(tensor);
    const auto* const data = reinterpret_cast<const float*>(bytes.data());
    const size_t count = tensor.byte_count / sizeof(float) / numbers;
    for (size_t i = 0; i < count; ++i) {
      const size_t tile = i / kTile * kTile, width = std::min(kTile, count - tile);
      for (size_t k = 0; k < numbers; ++k) {
        all.push_back(data[tile * numbers + k * width + (i - tile)]);
      }
    }
  }
  return all;
}

class CoordinateGoldenTest : public ::testing::TestWithParam<GoldenParam> {
 protected:
  void SetUp() override {
    const auto& [version, plan, where] = GetParam();
    auto backend = BackendOf(where);
    if (!backend.ok()) GTEST_SKIP() << backend.status();
    backend_ = *std::move(backend);
    tolerance_ = where == "cuda" ? 1e-4 : 1e-5;
    golden_ = GoldenVectors::Load(kName, version, plan);
    ASSERT_TRUE(golden_);
  }

  std::optional<GoldenVectors> golden_;
  std::unique_ptr<kernels::Backend> backend_;
  double tolerance_ = 0;
};

TEST_P(CoordinateGoldenTest, MatchesTheSpecification) {
  const auto& [version, plan, where] = GetParam();
  LearnedRun run(testing::RepositoryModel(kName, version), golden_->parameters(),
                 std::move(backend_));
  double worst = 0;
  for (int64_t step = 0; step < golden_->steps(); ++step) {
    std::vector<std::vector<float>> gradients;
    for (size_t i = 0; i < golden_->parameters().size(); ++i) {
      gradients.push_back(golden_->Gradient(step, i));
    }
    run.plan().loss = GoldenVectors::Loss(step);
    const auto updates = run.Step(gradients);
    for (size_t i = 0; i < updates.size(); ++i) {
      const double distance =
          RelativeDistance(golden_->Sample(i, updates[i]), golden_->Update(step, i));
      worst = std::max(worst, distance);
      EXPECT_LE(distance, tolerance_) << "step " << step << ", " << golden_->parameters()[i].name;
    }
  }
  RecordProperty("worst", fmt::format("{}", worst));
  if (!plan.empty()) return;
  const std::tuple<const char*, const char*, size_t> leaves[] = {
      {"fast", "moments.fast", 1},       {"slow", "moments.slow", 1},
      {"square", "moments.square", 1},   {"log_step", "log_step", 1},
      {"content", "recall.content", 32}, {"mass", "recall.normalizer", 8}};
  for (const auto& [slot, leaf, numbers] : leaves) {
    EXPECT_LE(RelativeDistance(Slot(run, slot, numbers), golden_->After(leaf)), tolerance_) << slot;
  }
}

std::vector<GoldenParam> AllParams() {
  std::vector<GoldenParam> params;
  for (const char* where : {"baseline", "avx2", "avx512", "cuda"}) {
    params.push_back({"0.2.0", "", where});
    for (const char* plan : {"", "shapes", "many"}) params.push_back({"0.0.1", plan, where});
  }
  return params;
}

std::string ParamName(const ::testing::TestParamInfo<GoldenParam>& param) {
  const auto& [version, plan, where] = param.param;
  return fmt::format("{}_{}_{}", version == "0.0.1" ? "test" : "shipped",
                     plan.empty() ? "state" : plan, where);
}

INSTANTIATE_TEST_SUITE_P(All, CoordinateGoldenTest, ::testing::ValuesIn(AllParams()), ParamName);

}  // namespace
}  // namespace mnemosyne::optim
