#include "optim/model.h"

#include <limits>

#include "optim/learned_optimizer.h"
#include "tests/testing/model_files.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

using testing::IsError;
using testing::LstmFile;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr kernels::LstmSizes kSizes = {2, 3, true};

absl::StatusOr<OptimizerFactoryPtr> Make(const LstmFile& file) {
  auto parsed = Safetensors::Parse(file.bytes());
  if (!parsed.ok()) return parsed.status();
  auto model = Model::Create("name", "1", *std::move(parsed));
  if (!model.ok()) return model.status();
  return MakeLearnedOptimizer(*std::move(model));
}

TEST(ModelTest, KnowsWhatItIs) {
  const auto model = Model::Create("a", "2", *Safetensors::Parse(LstmFile(kSizes).bytes()));

  ASSERT_OK(model);
  EXPECT_EQ((*model)->name(), "a");
  EXPECT_EQ((*model)->version(), "2");
  EXPECT_EQ((*model)->kind(), "rnnprop");
  EXPECT_EQ((*model)->hash().size(), 64U);
}

TEST(ModelTest, RefusesAFileThatIsNoModel) {
  LstmFile file(kSizes);
  file.metadata.erase("format");
  EXPECT_THAT(Make(file), IsError(kInvalid, "not a model: the metadata have no 'format'"));
  file.metadata["format"] = "x";
  EXPECT_THAT(Make(file), IsError(kInvalid, "unknown format: 'x', expected 'mnemosyne-theta-1'"));
  file.metadata["format"] = "mnemosyne-theta-1";
  file.metadata["config"] = "[";
  EXPECT_THAT(Make(file), IsError(kInvalid, "wrong config"));
  file.metadata["config"] = "{}";
  EXPECT_THAT(Make(file), IsError(kInvalid, "kind is missing"));
  file.metadata["config"] = R"({"kind":"other"})";
  EXPECT_THAT(Make(file), IsError(kInvalid, "unknown kind: 'other'"));
  file.metadata.erase("config");
  EXPECT_THAT(Make(file), IsError(kInvalid, "no 'config'"));
}

TEST(ModelTest, NamesTheTensorThatDoesNotFitTheConfig) {
  LstmFile file(kSizes);
  file.metadata["config"] = R"({"kind":"rnnprop","layers":2,"hidden":4,"output_scale":1})";
  EXPECT_THAT(Make(file),
              IsError(kInvalid, "tensor 'learned.in.w' is [2, 3], the config asks for [2, 4]"));
  file.metadata["config"] = R"({"kind":"rnnprop","layers":3,"hidden":3,"output_scale":1})";
  EXPECT_THAT(Make(file),
              IsError(kInvalid, "missing tensor: 'learned.layer2.w', of shape [6, 12]"));
  file.metadata["config"] = R"({"kind":"rnnprop","layers":1,"hidden":3,"output_scale":1})";
  EXPECT_THAT(Make(file),
              IsError(kInvalid, "unknown tensor: 'learned.layer1.b' is none of a model"));
}

TEST(ModelTest, RefusesSizesBeyondItsBounds) {
  LstmFile file(kSizes);
  for (const char* config : {R"({"kind":"lstm","layers":0,"hidden":3,"output_scale":1})",
                             R"({"kind":"lstm","layers":1,"hidden":65,"output_scale":1})",
                             R"({"kind":"lstm","layers":1,"hidden":3,"output_scale":-1})",
                             R"({"kind":"lstm","layers":1,"hidden":1e300,"output_scale":1})"}) {
    file.metadata["config"] = config;
    EXPECT_THAT(Make(file), IsError(kInvalid, "wrong config: ")) << config;
  }
}

TEST(ModelTest, RefusesWeightsThatAreNotFinite) {
  LstmFile file(kSizes);
  file.tensors["learned.out.w"].values[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(Make(file), IsError(kInvalid, "not finite: tensor 'learned.out.w', element 1"));
}

}  // namespace
}  // namespace mnemosyne::optim
