#include "optim/hyperparameters.h"

#include <limits>

#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

using ::testing::ElementsAre;
using testing::IsError;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr HyperparameterSpec kTable[] = {
    {"learning_rate", 0.01, 0, kInfinity, ""},
    {"beta", 0.9, 0, 0.999, ""},
    {"nesterov", 0, 0, 1, "", true},
};

TEST(HyperparametersTest, FillsInDefaults) {
  auto values = ResolveHyperparameters(kTable, {}, {});
  ASSERT_OK(values);
  EXPECT_THAT(*values, ElementsAre(0.01, 0.9, 0));
}

TEST(HyperparametersTest, LetsAGroupOverrideItsSession) {
  auto values = ResolveHyperparameters(kTable, {{"learning_rate", 1}, {"beta", 0.5}},
                                       {{"learning_rate", 2}, {"nesterov", 1}});
  ASSERT_OK(values);
  EXPECT_THAT(*values, ElementsAre(2, 0.5, 1));
}

TEST(HyperparametersTest, ListsThoseThereAreWhenOneIsUnknown) {
  for (const auto& values : {ResolveHyperparameters(kTable, {{"lr", 1}}, {}),
                             ResolveHyperparameters(kTable, {}, {{"lr", 1}})}) {
    EXPECT_THAT(values, IsError(absl::StatusCode::kInvalidArgument,
                                "unknown hyper-parameter: lr, expected one of learning_rate, beta, "
                                "nesterov"));
  }
}

TEST(HyperparametersTest, RefusesValuesOutsideTheirBounds) {
  const auto resolve = [](const char* name, double value) {
    return ResolveHyperparameters(kTable, {{name, value}}, {});
  };
  EXPECT_THAT(
      resolve("learning_rate", -1),
      IsError(absl::StatusCode::kInvalidArgument,
              "wrong hyper-parameter: learning_rate is -1, expected a finite number from 0"));
  EXPECT_THAT(resolve("beta", 1), IsError(absl::StatusCode::kInvalidArgument,
                                          "beta is 1, expected a number from 0 to 0.999"));
  EXPECT_THAT(resolve("nesterov", 0.5),
              IsError(absl::StatusCode::kInvalidArgument, "nesterov is 0.5, expected 0 or 1"));
  for (const char* name : {"learning_rate", "beta", "nesterov"}) {
    for (const double value : {std::numeric_limits<double>::quiet_NaN(), kInfinity, -kInfinity}) {
      EXPECT_THAT(resolve(name, value), IsError(absl::StatusCode::kInvalidArgument, name));
    }
  }
}

}  // namespace
}  // namespace mnemosyne::optim
