#include "optim/optimizer_registry.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

using testing::IsError;

TEST(OptimizerRegistryTest, ListsOptimizersInOrder) {
  std::vector<std::pair<std::string_view, std::string_view>> keys;
  for (const OptimizerInfo* info : ListOptimizers()) keys.emplace_back(info->name, info->version);

  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
  EXPECT_EQ(std::adjacent_find(keys.begin(), keys.end()), keys.end());
  for (const char* name : {"sgd", "adam", "adamw", "lion"}) EXPECT_OK(FindOptimizer(name, ""));
}

TEST(OptimizerRegistryTest, FindsTheNewestVersionByDefault) {
  auto newest = FindOptimizer("adamw", "");
  auto first = FindOptimizer("adamw", "1");

  ASSERT_OK(newest);
  ASSERT_OK(first);
  EXPECT_EQ(*newest, *first);
  EXPECT_EQ((*first)->name, "adamw");
}

TEST(OptimizerRegistryTest, NamesTheOptimizersThereAre) {
  const auto unknown = FindOptimizer("adan", "");

  EXPECT_THAT(unknown, IsError(absl::StatusCode::kNotFound,
                               "unknown optimizer: adan, expected one of adam 1, adamw 1"));
  EXPECT_EQ(ErrorReason(unknown.status()), "UNKNOWN_OPTIMIZER");
  EXPECT_THAT(FindOptimizer("sgd", "99"),
              IsError(absl::StatusCode::kNotFound, "unknown optimizer: sgd 99"));
  auto backend = kernels::CreateBackend("cpu");
  ASSERT_OK(backend);
  EXPECT_THAT(CreateOptimizer("adan", "", **backend),
              IsError(absl::StatusCode::kNotFound, "unknown optimizer"));
}

TEST(OptimizerRegistryTest, DeclaresHyperparametersThatMakeSense) {
  for (const OptimizerInfo* info : ListOptimizers()) {
    SCOPED_TRACE(info->name);
    EXPECT_EQ(info->hyperparameters.front().name, "learning_rate");
    for (const HyperparameterSpec& spec : info->hyperparameters) {
      EXPECT_LE(spec.minimum, spec.default_value) << spec.name;
      EXPECT_LE(spec.default_value, spec.maximum) << spec.name;
      EXPECT_FALSE(spec.description.empty()) << spec.name;
    }
  }
}

TEST(OptimizerRegistryTest, HasPyTorchsDefaults) {
  const auto default_of = [](const char* optimizer, std::string_view name) {
    for (const HyperparameterSpec& spec : (*FindOptimizer(optimizer, ""))->hyperparameters) {
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
