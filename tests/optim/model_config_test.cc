#include "optim/model_config.h"

#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

using ::testing::ElementsAre;
using testing::IsError;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

constexpr char kText[] =
    R"({"kind":"lstm","layers":2,"scale":0.5,"minus":-1,"many":[1,2.5],"mixed":[1,"x"],
        "on":true,"knobs":{"gain":3}})";

TEST(ModelConfigTest, ReadsValuesByName) {
  const auto config = ModelConfig::Parse(kText);

  ASSERT_OK(config);
  EXPECT_EQ(*config->Text("kind"), "lstm");
  EXPECT_EQ(*config->Size("layers", 1, 4), 2U);
  EXPECT_EQ(*config->Number("scale", 0, 1), 0.5);
  EXPECT_EQ(*config->Number("layers", 0, 2), 2);
  EXPECT_THAT(*config->Numbers("many", 1, 3), ElementsAre(1, 2.5));
  EXPECT_TRUE(*config->Boolean("on"));
  EXPECT_EQ(*config->Table("knobs")->Number("gain", 0, 10), 3);
}

TEST(ModelConfigTest, NamesTheValueAtFault) {
  const auto config = ModelConfig::Parse(kText);

  ASSERT_OK(config);
  EXPECT_THAT(config->Text("name"), IsError(kInvalid, "wrong config: name is missing"));
  EXPECT_THAT(config->Text("layers"), IsError(kInvalid, "layers is not a text"));
  EXPECT_THAT(config->Size("layers", 3, 4), IsError(kInvalid, "not a whole number from 3 to 4"));
  EXPECT_THAT(config->Size("minus", 0, 4), IsError(kInvalid, "minus is not a whole number"));
  EXPECT_THAT(config->Size("scale", 0, 4), IsError(kInvalid, "scale is not a whole number"));
  EXPECT_THAT(config->Number("scale", 1, 2), IsError(kInvalid, "scale is not a number from 1 to"));
  EXPECT_THAT(config->Number("kind", 1, 2), IsError(kInvalid, "kind is not a number"));
  EXPECT_THAT(config->Numbers("kind", 1, 2), IsError(kInvalid, "kind is not a list"));
  EXPECT_THAT(config->Numbers("mixed", 1, 2), IsError(kInvalid, "mixed is not a number"));
  EXPECT_THAT(config->Boolean("kind"), IsError(kInvalid, "kind is not true or false"));
  EXPECT_THAT(config->Table("kind"), IsError(kInvalid, "kind is not an object"));
}

TEST(ModelConfigTest, RefusesWhatIsNoObject) {
  for (const char* text : {"", "x", "1", "[]", "{", "{}x", "{\"a\":\"\xFF\"}"}) {
    EXPECT_THAT(ModelConfig::Parse(text), IsError(kInvalid, "it is not a JSON object")) << text;
  }
  EXPECT_THAT(ModelConfig::Parse(std::string(500'000, '[')),
              IsError(kInvalid, "it is not a JSON object"));
  const std::string deep = "{\"a\":" + std::string(400'000, '[') + std::string(400'000, ']') + "}";
  EXPECT_OK(ModelConfig::Parse(deep));  // Of no use, and no harm.
}

}  // namespace
}  // namespace mnemosyne::optim
