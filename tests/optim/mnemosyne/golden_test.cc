// The flagship against what metatrain computed with the same weights.
#include "tests/optim/golden.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ostream>

#include "tests/optim/learned_run.h"
#include "tests/testing/model_files.h"

namespace mnemosyne::optim {
namespace {

struct GoldenParam {
  std::string version;
  std::string plan;
  std::string where;  // As BackendOf() has it.

  // GoogleTest shows a parameter with this.
  friend void PrintTo(const GoldenParam& param, std::ostream* out) {
    *out << param.version << " " << param.plan << " " << param.where;
  }
};

double Norm(const std::vector<float>& x) {
  double square = 0;
  for (const float value : x) square += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(square);
}

class MnemosyneGoldenTest : public ::testing::TestWithParam<GoldenParam> {};

TEST_P(MnemosyneGoldenTest, MatchesTheSpecification) {
  const auto& [version, plan, where] = GetParam();
  auto backend = BackendOf(where);
  if (!backend.ok()) GTEST_SKIP() << backend.status();
  const double tolerance = where == "cuda" ? 1e-4 : 1e-5;
  const auto golden = GoldenVectors::Load("mnemosyne", version, plan);
  ASSERT_TRUE(golden);
  const OptimizerFactoryPtr factory =
      testing::MnemosyneModel(version, {{"chunk_size", golden->chunk_size()}});
  LearnedRun run(factory, golden->parameters(), *std::move(backend));
  double worst = 0;
  for (int64_t step = 0; step < golden->steps(); ++step) {
    std::vector<std::vector<float>> gradients;
    for (size_t i = 0; i < golden->parameters().size(); ++i) {
      gradients.push_back(golden->Gradient(step, i));
    }
    run.plan().loss = GoldenVectors::Loss(step);
    const auto updates = run.Step(gradients);
    const std::vector<UpdateRule>& rules = run.state().notes().rules;
    for (size_t i = 0; i < updates.size(); ++i) {
      const std::vector<float> expected = golden->Update(step, i);
      // Of a small tensor one element may be kept, which may be far smaller than the others.
      const double kept =
          static_cast<double>(expected.size()) / static_cast<double>(updates[i].size());
      const double share = Norm(expected) / (Norm(updates[i]) * std::sqrt(kept));
      const double distance =
          RelativeDistance(golden->Sample(i, updates[i]), expected) * std::min(share, 1.0);
      worst = std::max(worst, distance);
      EXPECT_LE(distance, tolerance) << "step " << step << ", " << golden->parameters()[i].name;
      EXPECT_NEAR(1 - rules[i].decay, golden->Keep(step, i), 1e-6)
          << "step " << step << ", " << golden->parameters()[i].name;
    }
  }
  RecordProperty("worst", fmt::format("{}", worst));
}

std::vector<GoldenParam> AllParams() {
  std::vector<GoldenParam> params;
  for (const char* where : {"baseline", "avx2", "avx512", "cuda"}) {
    params.push_back({"0.4.0", "", where});
    params.push_back({"0.3.0", "", where});
    for (const char* plan : {"", "shapes", "many"}) params.push_back({"0.0.1", plan, where});
    // The delta rule, the recurrent one, and the sizes that are shipped.
    for (const char* version : {"0.0.2", "0.0.3", "0.0.4"}) params.push_back({version, "", where});
  }
  for (const char* where : {"auto", "cuda"}) params.push_back({"0.0.4", "large", where});
  return params;
}

std::string ParamName(const ::testing::TestParamInfo<GoldenParam>& param) {
  const auto& [version, plan, where] = param.param;
  std::string name = version == "0.4.0" ? "shipped" : "test";
  if (version == "0.3.0") name = "priors";
  if (version == "0.0.2") name = "delta";
  if (version == "0.0.3") name = "recurrent_delta";
  if (version == "0.0.4") name = "shipped_sizes";
  return fmt::format("{}_{}_{}", name, plan.empty() ? "state" : plan, where);
}

INSTANTIATE_TEST_SUITE_P(All, MnemosyneGoldenTest, ::testing::ValuesIn(AllParams()), ParamName);

}  // namespace
}  // namespace mnemosyne::optim
