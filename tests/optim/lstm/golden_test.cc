// The LSTM optimizers against what metatrain computed with the same weights.
#include "tests/optim/golden.h"

#include <gtest/gtest.h>

#include "tests/optim/learned_run.h"
#include "tests/testing/model_files.h"

namespace mnemosyne::optim {
namespace {

TEST(CounterValuesTest, AreThoseOfTheSpecification) {
  const std::vector<float> values = CounterValues(3, 4);

  EXPECT_EQ(values, (std::vector<float>{-0.4861189126968384F, 0.5246618986129761F,
                                        0.8495966196060181F, -0.7385976314544678F}));
}

class LstmGoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(LstmGoldenTest, MatchesTheSpecification) {
  const std::string where = GetParam();
  const double tolerance = where == "cuda" ? 1e-4 : 1e-5;
  int models = 0;
  for (const OptimizerFactoryPtr& factory : testing::RepositoryModels()) {
    const OptimizerInfo& info = factory->info();
    if (info.name != "lstm" && info.name != "rnnprop") continue;
    const auto golden = GoldenVectors::Load(info.name, info.version);
    if (!golden) continue;
    ++models;
    auto backend = BackendOf(where);
    if (!backend.ok()) GTEST_SKIP() << backend.status();
    LearnedRun run(factory, golden->parameters(), *std::move(backend));
    for (int64_t step = 0; step < golden->steps(); ++step) {
      std::vector<std::vector<float>> gradients;
      for (size_t i = 0; i < golden->parameters().size(); ++i) {
        gradients.push_back(golden->Gradient(step, i));
      }
      const auto updates = run.Step(gradients);
      for (size_t i = 0; i < updates.size(); ++i) {
        EXPECT_LE(RelativeDistance(golden->Sample(i, updates[i]), golden->Update(step, i)),
                  tolerance)
            << info.name << " " << info.version << ", step " << step << ", "
            << golden->parameters()[i].name;
      }
    }
  }
  EXPECT_GE(models, 2);
}

INSTANTIATE_TEST_SUITE_P(All, LstmGoldenTest, ::testing::Values("baseline", "auto", "cuda"),
                         [](const auto& param) { return std::string(param.param); });

}  // namespace
}  // namespace mnemosyne::optim
