#include "server/model/model_registry.h"

#include <cstdlib>
#include <fstream>

#include "server/model/model_reloader.h"
#include "tests/testing/model_files.h"
#include "tests/testing/notification.h"
#include "tests/testing/safetensors_file.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

namespace fs = std::filesystem;

using mnemosyne::testing::LstmFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr kernels::LstmSizes kSizes = {1, 2, false};

class ModelRegistryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/modelsXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  void Write(const std::string& place, const std::vector<std::byte>& bytes) {
    fs::create_directories(folder_ / place);
    std::ofstream(folder_ / place / "weights.safetensors", std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  void WriteModel(const std::string& place, uint32_t seed = 1) {
    Write(place, LstmFile(kSizes, seed).bytes());
  }

  fs::path folder_;
};

// The learned optimizers that can be had.
std::vector<std::string> Names(const ModelRegistry& models) {
  std::vector<std::string> names;
  for (const auto& factory : models.optimizers()->factories()) {
    const optim::OptimizerInfo& info = factory->info();
    if (!info.weights_hash.empty()) names.push_back(fmt::format("{} {}", info.name, info.version));
  }
  return names;
}

TEST_F(ModelRegistryTest, ServesEveryVersionAndTheClassicOptimizers) {
  WriteModel("lstm/0.2.0");
  WriteModel("lstm/0.10.0");
  WriteModel("other/1");
  ModelRegistry models({folder_});
  EXPECT_THAT(Names(models), IsEmpty());

  const ModelReload reload = models.Reload();

  EXPECT_THAT(Names(models), ElementsAre("lstm 0.2.0", "lstm 0.10.0", "other 1"));
  EXPECT_EQ(reload.loaded.size(), 3U);
  EXPECT_OK(models.optimizers()->Find("adam", ""));
  EXPECT_EQ((*models.optimizers()->Find("lstm", ""))->info().version, "0.10.0");
}

TEST_F(ModelRegistryTest, PicksUpWhatIsNewAndRetiresWhatIsGone) {
  WriteModel("lstm/1");
  ModelRegistry models({folder_});
  models.Reload();
  const auto kept = *models.optimizers()->Find("lstm", "1");
  WriteModel("lstm/2");
  fs::remove_all(folder_ / "lstm/1");

  const ModelReload reload = models.Reload();

  EXPECT_THAT(Names(models), ElementsAre("lstm 2"));
  EXPECT_EQ(reload.loaded.size(), 1U);
  ASSERT_EQ(reload.retired.size(), 1U);
  EXPECT_EQ(reload.retired[0], kept);
  // Whoever holds it still has all of it.
  EXPECT_OK(kept->Create(**kernels::CreateBackend("cpu")));
}

TEST_F(ModelRegistryTest, KeepsTheSameObjectForTheSameWeights) {
  WriteModel("lstm/1");
  ModelRegistry models({folder_});
  models.Reload();
  const auto before = *models.optimizers()->Find("lstm", "1");

  const ModelReload reload = models.Reload();

  EXPECT_EQ(*models.optimizers()->Find("lstm", "1"), before);
  EXPECT_THAT(reload.loaded, IsEmpty());
  EXPECT_THAT(reload.retired, IsEmpty());
}

TEST_F(ModelRegistryTest, TakesOtherWeightsOfTheSameVersion) {
  WriteModel("lstm/1", 1);
  ModelRegistry models({folder_});
  models.Reload();
  const auto before = *models.optimizers()->Find("lstm", "1");
  WriteModel("lstm/1", 2);

  const ModelReload reload = models.Reload();

  EXPECT_NE((*models.optimizers()->Find("lstm", "1"))->info().weights_hash,
            before->info().weights_hash);
  EXPECT_EQ(reload.loaded.size(), 1U);
  EXPECT_EQ(reload.retired.size(), 1U);
}

TEST_F(ModelRegistryTest, ABrokenFileTakesNothingAway) {
  WriteModel("lstm/1");
  WriteModel("lstm/2");
  ModelRegistry models({folder_});
  models.Reload();
  Write("lstm/2", mnemosyne::testing::ToBytes("not a model"));
  Write("lstm/3", mnemosyne::testing::ToBytes(""));

  const ModelReload reload = models.Reload();

  EXPECT_THAT(Names(models), ElementsAre("lstm 1", "lstm 2"));
  ASSERT_EQ(reload.refused.size(), 2U);
  EXPECT_THAT(reload.refused[0].path, HasSubstr("lstm/2/weights.safetensors"));
  EXPECT_THAT(reload.refused[0].reason, HasSubstr("header"));
  EXPECT_EQ(reload.refused[1].version, "3");
  EXPECT_THAT(reload.refused[1].reason, HasSubstr("truncated"));
  EXPECT_THAT(reload.retired, IsEmpty());
}

TEST_F(ModelRegistryTest, RefusesFilesThatItCannotServeAndSaysWhy) {
  WriteModel("adam/1");
  WriteModel("with space/1");
  LstmFile misfit(kSizes);
  misfit.tensors["learned.out.b"].shape = {1, 1};
  Write("misfit/1", misfit.bytes());
  Write("large/1", std::vector<std::byte>(kModelBytesMax + 1));
  ModelRegistry models({folder_});

  const ModelReload reload = models.Reload();

  EXPECT_THAT(Names(models), IsEmpty());
  std::vector<std::string> reasons;
  for (const auto& refusal : reload.refused) reasons.push_back(refusal.reason);
  EXPECT_THAT(reasons,
              ElementsAre(HasSubstr("adam is an optimizer without weights"), HasSubstr("too large"),
                          HasSubstr("tensor 'learned.out.b'"), HasSubstr("wrong name")));
}

TEST_F(ModelRegistryTest, PassesOverWhatIsNoModel) {
  WriteModel(".hidden/1");
  WriteModel("lstm/.draft");
  fs::create_directories(folder_ / "lstm/2");  // Still without its file.
  std::ofstream(folder_ / "README") << "x";
  ModelRegistry models({folder_, folder_ / "nowhere"});

  const ModelReload reload = models.Reload();

  EXPECT_THAT(reload.refused, IsEmpty());
  EXPECT_THAT(Names(models), IsEmpty());
}

TEST_F(ModelRegistryTest, TheFirstFolderCounts) {
  WriteModel("a/lstm/1", 1);
  WriteModel("b/lstm/1", 2);
  WriteModel("b/lstm/2", 2);
  ModelRegistry models({folder_ / "a", folder_ / "b"});

  const ModelReload reload = models.Reload();

  EXPECT_EQ((*models.optimizers()->Find("lstm", "1"))->info().weights_hash,
            LstmFile(kSizes, 1).Make()->info().weights_hash);
  ASSERT_EQ(reload.refused.size(), 1U);
  EXPECT_THAT(reload.refused[0].reason, HasSubstr("lstm 1 is also in a folder named before"));
  EXPECT_THAT(Names(models), ElementsAre("lstm 1", "lstm 2"));
}

TEST_F(ModelRegistryTest, AReloaderAnswersEverybody) {
  WriteModel("lstm/1");
  ModelRegistry models({folder_});
  ModelReloader reloader(models);
  mnemosyne::testing::Notification first, second;

  ASSERT_OK(reloader.Submit([&](const ModelReload&) { first.Notify(); }));
  ASSERT_OK(reloader.Submit([&](const ModelReload&) { second.Notify(); }));
  first.WaitForNotification();
  second.WaitForNotification();

  EXPECT_THAT(Names(models), ElementsAre("lstm 1"));
}

}  // namespace
}  // namespace mnemosyne::server
