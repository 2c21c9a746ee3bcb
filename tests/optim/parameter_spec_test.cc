#include "optim/parameter_spec.h"

#include <limits>

#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

using testing::IsError;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

auto Invalid(const char* text) { return IsError(absl::StatusCode::kInvalidArgument, text); }

ParameterSpec Parameter(std::string name, std::vector<int64_t> shape) {
  ParameterSpec parameter;
  parameter.name = std::move(name);
  parameter.shape = std::move(shape);
  return parameter;
}

size_t Count(std::vector<int64_t> shape) { return ElementCount(shape).value(); }
absl::Status CountStatus(std::vector<int64_t> shape) { return ElementCount(shape).status(); }

TEST(ElementCountTest, MultipliesTheSizes) {
  EXPECT_EQ(Count({}), 1U);
  EXPECT_EQ(Count({7}), 7U);
  EXPECT_EQ(Count({2, 3, 4}), 24U);
  EXPECT_EQ(Count({1, 1, 1, 1, 1, 1, 1, 2}), 2U);
  EXPECT_EQ(Count({kMax}), static_cast<size_t>(kMax));
}

TEST(ElementCountTest, RefusesShapesThatCannotBe) {
  EXPECT_THAT(CountStatus({2, 0}), Invalid("empty shape: dimension 1 is 0"));
  EXPECT_THAT(CountStatus({-3}), Invalid("empty shape: dimension 0 is -3"));
  EXPECT_THAT(CountStatus(std::vector<int64_t>(9, 1)), Invalid("too many dimensions: shape has 9"));
  EXPECT_THAT(CountStatus({kMax, 2}), Invalid("shape too large"));
  EXPECT_THAT(CountStatus({int64_t{1} << 32, int64_t{1} << 32}), Invalid("shape too large"));
}

TEST(ParameterLayoutTest, PutsRunsOneAfterTheOtherAligned) {
  auto layout = ParameterLayout::Create(
      {Parameter("a", {3}), Parameter("b", {}), Parameter("c", {4, 4}), Parameter("d", {17})});

  ASSERT_OK(layout);
  std::vector<size_t> offsets, counts;
  for (const ParameterLayout::Run& run : layout->runs()) {
    offsets.push_back(run.offset);
    counts.push_back(run.count);
  }
  EXPECT_THAT(offsets, ::testing::ElementsAre(0, 16, 32, 48));
  EXPECT_THAT(counts, ::testing::ElementsAre(3, 1, 16, 17));
  EXPECT_EQ(layout->element_count(), 37U);
  EXPECT_EQ(layout->arena_size(), 80U);
  EXPECT_EQ(layout->parameters()[3].name, "d");
}

TEST(ParameterLayoutTest, HoldsTenThousandParameters) {
  std::vector<ParameterSpec> parameters;
  for (int i = 0; i < 10'000; ++i) parameters.push_back(Parameter(std::to_string(i), {5, 5}));

  auto layout = ParameterLayout::Create(std::move(parameters));

  ASSERT_OK(layout);
  EXPECT_EQ(layout->element_count(), 250'000U);
  EXPECT_EQ(layout->arena_size(), 320'000U);
}

TEST(ParameterLayoutTest, RefusesNoParameters) {
  EXPECT_THAT(ParameterLayout::Create({}), Invalid("no parameters"));
}

TEST(ParameterLayoutTest, RefusesNamesThatAreEmptyOrRepeated) {
  EXPECT_THAT(ParameterLayout::Create({Parameter("a", {1}), Parameter("", {1})}),
              Invalid("empty name: parameter at position 1"));
  EXPECT_THAT(ParameterLayout::Create({Parameter("a", {1}), Parameter("a", {2})}),
              Invalid("parameter a: repeated name"));
}

TEST(ParameterLayoutTest, NamesTheParameterWithAWrongShape) {
  const auto layout = ParameterLayout::Create({Parameter("a", {1}), Parameter("b.weight", {0})});

  EXPECT_THAT(layout, Invalid("parameter b.weight: empty shape"));
  EXPECT_EQ(ErrorMetadata(layout.status())["parameter"], "b.weight");
}

TEST(ParameterLayoutTest, RefusesParametersThatOverflowTogether) {
  EXPECT_THAT(ParameterLayout::Create({Parameter("a", {kMax / 16}), Parameter("b", {kMax / 16})}),
              Invalid("parameter b: parameters too large"));
  EXPECT_THAT(ParameterLayout::Create({Parameter("a", {kMax})}),
              Invalid("parameter a: parameters too large"));
}

}  // namespace
}  // namespace mnemosyne::optim
