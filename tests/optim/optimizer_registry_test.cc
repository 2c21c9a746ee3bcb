#include "optim/optimizer_registry.h"

#include <cmath>
#include <string>
#include <vector>

#include "tests/testing/model_files.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

using testing::IsError;
using testing::LstmFile;

TEST(OptimizerRegistryTest, ListsOptimizersInOrder) {
  const kernels::LstmSizes sizes = {1, 2, false};
  const OptimizerRegistry registry({LstmFile(sizes).Make("lstm", "0.10.0"),
                                    LstmFile(sizes).Make("lstm", "0.9.1"),
                                    LstmFile(sizes).Make("bottom", "1")});

  std::vector<std::string> names;
  for (const OptimizerFactoryPtr& factory : registry.factories()) {
    names.push_back(fmt::format("{} {}", factory->info().name, factory->info().version));
  }

  EXPECT_THAT(names, ::testing::ElementsAre("adam 1", "adamw 1", "bottom 1", "lion 1", "lstm 0.9.1",
                                            "lstm 0.10.0", "sgd 1"));
}

TEST(OptimizerRegistryTest, FindsTheNewestVersionByDefault) {
  const kernels::LstmSizes sizes = {1, 2, false};
  const OptimizerRegistry registry(
      {LstmFile(sizes).Make("lstm", "0.10.0"), LstmFile(sizes).Make("lstm", "0.9.1")});

  EXPECT_EQ((*registry.Find("lstm", ""))->info().version, "0.10.0");
  EXPECT_EQ((*registry.Find("lstm", "0.9.1"))->info().version, "0.9.1");
  EXPECT_EQ((*registry.Find("adamw", ""))->info().version, "1");
}

TEST(OptimizerRegistryTest, FindsTheNewestVersionWithTheWeightsAskedFor) {
  const kernels::LstmSizes sizes = {1, 2, false};
  const LstmFile first(sizes, 1), second(sizes, 2);
  const OptimizerRegistry registry(
      {first.Make("lstm", "1"), first.Make("lstm", "2"), second.Make("lstm", "3")});
  const std::string hash(first.Make()->info().weights_hash);

  EXPECT_EQ((*registry.Find("lstm", "", hash))->info().version, "2");
  EXPECT_EQ((*registry.Find("lstm", "1", hash))->info().version, "1");
  const auto unknown = registry.Find("lstm", "3", hash);
  EXPECT_THAT(unknown, IsError(absl::StatusCode::kNotFound, "unknown weights: " + hash));
  EXPECT_EQ(ErrorReason(unknown.status()), "UNKNOWN_WEIGHTS");
  EXPECT_THAT(registry.Find("adam", "", hash),
              IsError(absl::StatusCode::kNotFound, "adam 1 has no weights"));
}

TEST(OptimizerRegistryTest, NamesTheOptimizersThereAre) {
  const OptimizerRegistry registry;
  const auto unknown = registry.Find("adan", "");

  EXPECT_THAT(unknown, IsError(absl::StatusCode::kNotFound,
                               "unknown optimizer: adan, expected one of adam 1, adamw 1"));
  EXPECT_EQ(ErrorReason(unknown.status()), "UNKNOWN_OPTIMIZER");
  EXPECT_THAT(registry.Find("sgd", "99"),
              IsError(absl::StatusCode::kNotFound, "unknown optimizer: sgd 99"));
}

TEST(OptimizerRegistryTest, KnowsTheNamesThatNoModelCanHave) {
  EXPECT_TRUE(OptimizerRegistry::IsClassic("sgd"));
  EXPECT_FALSE(OptimizerRegistry::IsClassic("lstm"));
}

TEST(OptimizerRegistryTest, DeclaresHyperparametersThatMakeSense) {
  const OptimizerRegistry registry({LstmFile({1, 2, false}).Make("lstm", "1")});
  for (const OptimizerFactoryPtr& factory : registry.factories()) {
    const OptimizerInfo& info = factory->info();
    SCOPED_TRACE(info.name);
    EXPECT_EQ(info.hyperparameters.front().name, "learning_rate");
    for (const HyperparameterSpec& spec : info.hyperparameters) {
      EXPECT_LE(spec.minimum, spec.default_value) << spec.name;
      EXPECT_LE(spec.default_value, spec.maximum) << spec.name;
      EXPECT_FALSE(spec.description.empty()) << spec.name;
    }
  }
}

TEST(OptimizerRegistryTest, HasPyTorchsDefaults) {
  const auto default_of = [](const char* optimizer, std::string_view name) {
    const auto factory = OptimizerRegistry().Find(optimizer, "");
    for (const HyperparameterSpec& spec : (*factory)->info().hyperparameters) {
      if (spec.name == name) return spec.default_value;
    }
    return std::nan("");
  };
  EXPECT_EQ(default_of("adam", "learning_rate"), 1e-3);
  EXPECT_EQ(default_of("adam", "beta1"), 0.9);
  EXPECT_EQ(default_of("adam", "beta2"), 0.999);
  EXPECT_EQ(default_of("adam", "epsilon"), 1e-8);
  EXPECT_EQ(default_of("adam", "weight_decay"), 0);
  EXPECT_EQ(default_of("adamw", "weight_decay"), 0.01);
  EXPECT_EQ(default_of("lion", "learning_rate"), 1e-4);
  EXPECT_EQ(default_of("lion", "beta2"), 0.99);
}

}  // namespace
}  // namespace mnemosyne::optim
