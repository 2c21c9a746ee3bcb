#include "optim/mnemosyne/mnemosyne_weights.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/safetensors.h"
#include "kernels/cuda/mnemosyne_team_layout.h"
#include "optim/model.h"
#include "tests/testing/model_files.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::optim {
namespace {

// On a GPU the shipped weights are to run in the program written for their sizes. The program for
// any sizes would run them too, ten times slower.
TEST(MnemosyneWeightsTest, ShippedSizesAreThoseOfTheTeamsProgram) {
  int versions = 0;
  for (const auto& folder :
       std::filesystem::directory_iterator(testing::SourceFolder() + "/models/mnemosyne")) {
    ++versions;
    const std::string version = folder.path().filename();
    auto file = Safetensors::Read(folder.path() / "weights.safetensors", size_t{8} << 20);
    ASSERT_OK(file.status());
    const auto model = Model::Create("mnemosyne", version, *std::move(file));
    ASSERT_OK(model.status());
    const auto weights = ReadMnemosyneWeights(**model);
    ASSERT_OK(weights.status());
    EXPECT_TRUE(kernels::cuda::TeamSizes::Fit(weights->model.sizes)) << version;
  }
  EXPECT_GT(versions, 0);
}

}  // namespace
}  // namespace mnemosyne::optim
