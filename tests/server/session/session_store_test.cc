#include "server/session/session_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "base/error.h"
#include "tests/server/testing/test_bench.h"
#include "tests/testing/model_files.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(SessionStoreTest, MakesASessionWithItsMemoryReserved) {
  TestBench bench;
  const auto session = bench.Create();
  EXPECT_THAT(session->name(), ::testing::StartsWith("sessions/"));
  EXPECT_EQ(session->layout().element_count(), 9);
  EXPECT_GT(session->reserved_bytes(), session->state_bytes());
  EXPECT_EQ(bench.budget.bytes_reserved(), session->reserved_bytes());
  EXPECT_EQ(*bench.store.Find({}, session->name()), session);
}

TEST(SessionStoreTest, ARepeatedRequestGetsTheSameSession) {
  TestBench bench;
  const auto first = bench.TryCreate(SmallSpec(), "id", 7);
  const auto second = bench.TryCreate(SmallSpec(), "id", 7);
  ASSERT_OK(first);
  EXPECT_EQ(*first, *second);
  EXPECT_EQ((*first)->token(), (*second)->token());
  EXPECT_EQ(bench.store.count(), 1);
}

TEST(SessionStoreTest, RefusesARequestIdWithAnotherSpec) {
  TestBench bench;
  ASSERT_OK(bench.TryCreate(SmallSpec(), "id", 7));
  EXPECT_EQ(ErrorReason(bench.TryCreate(SmallSpec("sgd"), "id", 8).status()), "REQUEST_ID_REUSED");
}

TEST(SessionStoreTest, AFailedRequestMayBeTriedAgain) {
  TestBench bench;
  SessionSpec bad = SmallSpec();
  bad.hyperparameters["learning_rat"] = 1;
  EXPECT_EQ(ErrorReason(bench.TryCreate(bad, "id", 1).status()), "UNKNOWN_HYPERPARAMETER");
  EXPECT_OK(bench.TryCreate(SmallSpec(), "id", 2));
}

TEST(SessionStoreTest, NamesAndTokensAreUnique) {
  TestBench bench;
  std::set<std::string> seen;
  for (int i = 0; i < 50; ++i) {
    const auto session = bench.Create();
    EXPECT_TRUE(seen.insert(session->name()).second);
    EXPECT_TRUE(seen.insert(session->token()).second);
    EXPECT_EQ(session->token().size(), 64);
  }
}

TEST(SessionStoreTest, ChecksTheToken) {
  TestBench bench;
  const auto session = bench.Create();
  EXPECT_OK(bench.store.FindWithToken({}, session->name(), session->token()));
  for (const std::string& token : {std::string(), std::string("x"), session->token() + "0"}) {
    EXPECT_EQ(ErrorReason(bench.store.FindWithToken({}, session->name(), token).status()),
              "WRONG_TOKEN");
  }
}

TEST(SessionStoreTest, DeletingFreesItsPlaceAndItsMemory) {
  TestBench bench(SessionLimits{.session_count_max = 1});
  auto session = bench.Create();
  EXPECT_EQ(ErrorReason(bench.TryCreate(SmallSpec(), "other").status()), "TOO_MANY_SESSIONS");
  bench.store.Delete(session);
  session.reset();
  bench.Settle();
  EXPECT_EQ(bench.budget.bytes_reserved(), 0);
  EXPECT_OK(bench.TryCreate(SmallSpec(), "other"));
}

TEST(SessionStoreTest, RefusesWhatDoesNotFitAndSaysWhatWould) {
  TestBench bench({}, /*memory_max=*/100'000);
  SessionSpec large = SmallSpec();
  large.parameters.push_back({.name = "large", .shape = {1'000'000}});
  const absl::Status status = bench.TryCreate(large, "id").status();
  EXPECT_EQ(ErrorReason(status), "MEMORY_EXHAUSTED");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorMetadata(status).at("available_bytes"), "100000");
  EXPECT_OK(bench.TryCreate(SmallSpec(), "small"));
}

TEST(SessionStoreTest, ListsPagesInOrderOfCreation) {
  TestBench bench;
  std::vector<std::string> names;
  for (int i = 0; i < 5; ++i) names.push_back(bench.Create()->name());
  std::vector<std::string> listed;
  std::optional<SessionStore::Position> after = SessionStore::Position();
  do {
    const auto page = bench.store.List({}, 2, *after, &after);
    EXPECT_LE(page.size(), 2);
    for (const auto& session : page) listed.push_back(session->name());
  } while (after);
  EXPECT_EQ(listed, names);
}

TEST(SessionStoreTest, ForOthersATenantsSessionIsNotThere) {
  TestBench bench;
  const Caller vision{.tenant = "vision", .admin = false};
  const Caller speech{.tenant = "speech", .admin = false};
  const Caller admin{.tenant = "ops", .admin = true};
  const auto made = bench.TryCreate(SmallSpec(), "id", 7, vision);
  ASSERT_OK(made);
  const std::string name = (*made)->name();
  const std::string token = (*made)->token();

  EXPECT_EQ(bench.store.Find(speech, name).status(),
            bench.store.Find(speech, "sessions/0").status());
  EXPECT_EQ(bench.store.FindWithToken(speech, name, token).status(),
            bench.store.FindWithToken(speech, "sessions/0", token).status());
  EXPECT_OK(bench.store.Find(vision, name));
  EXPECT_OK(bench.store.Find(admin, name));
  std::optional<SessionStore::Position> next;
  EXPECT_TRUE(bench.store.List(speech, 10, {}, &next).empty());
  EXPECT_TRUE(bench.store.List(speech, 10, {.tenant = "vision"}, &next).empty());
  EXPECT_EQ(bench.store.List(vision, 10, {}, &next).size(), 1);
  EXPECT_EQ(bench.store.List(admin, 10, {}, &next).size(), 1);
}

TEST(SessionStoreTest, ARequestIdIsATenantsOwn) {
  TestBench bench;
  const Caller vision{.tenant = "vision", .admin = false};
  const Caller speech{.tenant = "speech", .admin = false};
  const auto first = bench.TryCreate(SmallSpec(), "id", 7, vision);
  const auto second = bench.TryCreate(SmallSpec(), "id", 7, speech);
  const auto other = bench.TryCreate(SmallSpec("sgd"), "id", 8, Caller{.tenant = "third"});
  ASSERT_OK(first);
  ASSERT_OK(second);
  ASSERT_OK(other);
  EXPECT_NE((*first)->token(), (*second)->token());
}

TEST(SessionStoreTest, ATenantHasItsOwnBounds) {
  TestBench bench;
  bench.tenant_limits.sessions = 1;
  const Caller vision{.tenant = "vision", .admin = false};
  auto made = bench.TryCreate(SmallSpec(), "a", 7, vision);
  ASSERT_OK(made);
  EXPECT_EQ(ErrorReason(bench.TryCreate(SmallSpec(), "b", 7, vision).status()), "TENANT_LIMIT");
  EXPECT_OK(bench.TryCreate(SmallSpec(), "b", 7, Caller{.tenant = "speech"}));
  bench.store.Delete(*made);
  *made = nullptr;
  bench.Settle();
  EXPECT_OK(bench.TryCreate(SmallSpec(), "b", 7, vision));
}

TEST(SessionStoreTest, HoldsTenThousandParameters) {
  TestBench bench;
  SessionSpec spec = SmallSpec();
  for (int i = 0; i < 9'998; ++i) {
    spec.parameters.push_back({.name = "p" + std::to_string(i), .shape = {1 + i % 40}});
  }
  EXPECT_EQ(bench.Create(spec)->layout().parameters().size(), 10'000);
}

struct BadSpec {
  const char* name;
  const char* reason;
  const char* message;
  void (*spoil)(SessionSpec&);
};
void PrintTo(const BadSpec& spec, std::ostream* out) { *out << spec.name; }

class BadSpecTest : public ::testing::TestWithParam<BadSpec> {};

TEST_P(BadSpecTest, IsRefusedWithItsCauseAndReservesNothing) {
  TestBench bench(SessionLimits{.parameter_count_max = 4});
  SessionSpec spec = SmallSpec();
  GetParam().spoil(spec);
  const absl::Status status = bench.TryCreate(spec, "id").status();
  EXPECT_EQ(ErrorReason(status), GetParam().reason) << status;
  EXPECT_THAT(std::string(ErrorMessage(status)), HasSubstr(GetParam().message));
  EXPECT_EQ(bench.budget.bytes_reserved(), 0);
  EXPECT_EQ(bench.store.count(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Reasons, BadSpecTest,
    ::testing::Values(
        BadSpec{"UnknownOptimizer", "UNKNOWN_OPTIMIZER", "adamw",
                [](SessionSpec& s) { s.optimizer = "adamv"; }},
        BadSpec{"UnknownHyperparameter", "UNKNOWN_HYPERPARAMETER", "learning_rate",
                [](SessionSpec& s) { s.hyperparameters["lr"] = 1; }},
        BadSpec{"UnknownHyperparameterOfAGroup", "UNKNOWN_HYPERPARAMETER", "learning_rate",
                [](SessionSpec& s) {
                  s.groups = {{"all", {{"lr", 1}}}};
                }},
        BadSpec{"HyperparameterOutOfBounds", "INVALID_HYPERPARAMETER", "beta1",
                [](SessionSpec& s) { s.hyperparameters["beta1"] = 1.5; }},
        BadSpec{"HyperparameterNan", "INVALID_HYPERPARAMETER", "beta1",
                [](SessionSpec& s) {
                  s.hyperparameters["beta1"] = std::numeric_limits<double>::quiet_NaN();
                }},
        BadSpec{"NoParameters", "INVALID_PARAMETER", "no parameters",
                [](SessionSpec& s) { s.parameters.clear(); }},
        BadSpec{"DuplicateNames", "INVALID_PARAMETER", "weight",
                [](SessionSpec& s) { s.parameters[1].name = "weight"; }},
        BadSpec{"EmptyName", "INVALID_PARAMETER", "name",
                [](SessionSpec& s) { s.parameters[1].name = ""; }},
        BadSpec{"RankNine", "INVALID_PARAMETER", "8",
                [](SessionSpec& s) { s.parameters[1].shape = {1, 1, 1, 1, 1, 1, 1, 1, 1}; }},
        BadSpec{"EmptyTensor", "INVALID_PARAMETER", "bias",
                [](SessionSpec& s) {
                  s.parameters[1].shape = {3, 0};
                }},
        BadSpec{"NegativeSize", "INVALID_PARAMETER", "bias",
                [](SessionSpec& s) { s.parameters[1].shape = {-3}; }},
        BadSpec{"OverflowingShape", "INVALID_PARAMETER", "bias",
                [](SessionSpec& s) {
                  s.parameters[1].shape = {1LL << 31, 1LL << 31, 1LL << 31};
                }},
        BadSpec{"HugeShape", "MEMORY_EXHAUSTED", "are left",
                [](SessionSpec& s) { s.parameters[1].shape = {1LL << 40}; }},
        BadSpec{"ShapeBeyondAnyMachine", "MEMORY_EXHAUSTED", "no machine",
                [](SessionSpec& s) { s.parameters[1].shape = {1LL << 58}; }},
        BadSpec{"UnknownGroup", "INVALID_SPEC", "group 1",
                [](SessionSpec& s) { s.parameters[1].group = 1; }},
        BadSpec{
            "BadSchedule", "INVALID_SPEC", "",
            [](SessionSpec& s) { s.schedule.shape = optim::LearningRateSchedule::Shape::kCosine; }},
        BadSpec{"BadClipping", "INVALID_SPEC", "",
                [](SessionSpec& s) { s.policy.global_norm_max = 0; }},
        BadSpec{"LongLabel", "INVALID_SPEC", "label",
                [](SessionSpec& s) { s.label = std::string(1000, 'x'); }},
        BadSpec{"TooManyParameters", "TOO_MANY_PARAMETERS", "4",
                [](SessionSpec& s) {
                  for (int i = 0; i < 3; ++i) {
                    s.parameters.push_back({.name = std::to_string(i), .shape = {1}});
                  }
                }}),
    [](const auto& param) { return std::string(param.param.name); });

class LearnedSessionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/modelsXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    Write(1);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Write(uint32_t seed) {
    const auto bytes = mnemosyne::testing::LstmFile({1, 2, false}, seed).bytes();
    const auto place = folder_ / "lstm" / "1";
    std::filesystem::create_directories(place);
    std::ofstream(place / "weights.safetensors", std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }

  std::filesystem::path folder_;
};

TEST_F(LearnedSessionTest, KeepsItsWeightsWhenTheyAreRetired) {
  TestBench bench({}, int64_t{1} << 30, 64, {folder_});
  bench.models.Reload();
  const auto before = bench.Create(SmallSpec("lstm"));
  const std::string hash = before->spec().weights_hash;
  EXPECT_EQ(hash.size(), 64U);
  EXPECT_EQ(before->optimizer().weights_hash, hash);

  Write(2);
  bench.models.Reload();
  const auto after = bench.Create(SmallSpec("lstm"));

  EXPECT_EQ(before->optimizer().weights_hash, hash);
  EXPECT_NE(after->optimizer().weights_hash, hash);
  std::filesystem::remove_all(folder_ / "lstm");
  bench.models.Reload();
  EXPECT_EQ(ErrorReason(bench.TryCreate(SmallSpec("lstm"), "none").status()), "UNKNOWN_OPTIMIZER");
  // The same request still finds its session.
  EXPECT_OK(bench.TryCreate(SmallSpec("lstm"), "request 2"));
}

TEST_F(LearnedSessionTest, RefusesOtherWeightsThanThoseAskedFor) {
  TestBench bench({}, int64_t{1} << 30, 64, {folder_});
  bench.models.Reload();
  SessionSpec spec = SmallSpec("lstm");
  spec.weights_hash = std::string(64, 'a');

  EXPECT_EQ(ErrorReason(bench.TryCreate(spec, "id").status()), "UNKNOWN_WEIGHTS");
}

TEST_F(LearnedSessionTest, SessionsOfTheSameWeightsShareThem) {
  TestBench bench({}, int64_t{1} << 30, 64, {folder_});
  bench.models.Reload();
  const auto first = bench.Create(SmallSpec("lstm")), second = bench.Create(SmallSpec("lstm"));

  EXPECT_EQ(&first->rule(), &second->rule());
}

}  // namespace
}  // namespace mnemosyne::server
