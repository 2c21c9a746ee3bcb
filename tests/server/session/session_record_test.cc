#include "server/session/session_record.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <string_view>

#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using mnemosyne::testing::IsError;

SessionSpec FullSpec() {
  SessionSpec spec;
  spec.optimizer = "adamw";
  spec.optimizer_version = "1";
  spec.weights_hash = "abc";
  spec.parameters.push_back({.name = "w \"\xc3\xa4",
                             .shape = {2, 3},
                             .data_type = DataType::kBFloat16,
                             .group = 1,
                             .role = "weight",
                             .fan_in_axis = 1,
                             .fan_in = 3,
                             .fan_out = 2});
  spec.groups = {{"a", {{"learning_rate", 0.1}}},
                 {"b", {{"beta1", std::numeric_limits<double>::infinity()}}}};
  spec.hyperparameters = {{"eps", 1e-8 / 3}};
  spec.schedule = {optim::LearningRateSchedule::Shape::kCosine, 5, 100, 0.1};
  spec.policy = {optim::NonFinitePolicy::kZero, 1.0 / 3, 2.5};
  spec.horizon = 1000;
  spec.label = "run";
  spec.durability = Durability::kStep;
  return spec;
}

SessionRecord SmallRecord() {
  SessionRecord record;
  record.spec = FullSpec();
  return record;
}

TEST(SessionRecordTest, RefusesNumbersThatAreNotWholeOrTooLarge) {
  const std::string json = *ToJson(SmallRecord());
  for (const char* field :
       {"\"cell_elements\":0", "\"step\":0", "\"spec_fingerprint\":0", "\"create_nanoseconds\":0",
        "\"epoch\":0", "\"warmup_steps\":5", "\"group\":1", "\"horizon\":1000", "\"fan_in\":3"}) {
    const size_t at = json.find(field);
    ASSERT_NE(at, std::string::npos) << field;
    for (const char* number : {"1e60", "0.5", "\"1\""}) {
      std::string wrong = json;
      const size_t start = at + std::string_view(field).find(':') + 1;
      wrong.replace(start, wrong.find_first_of(",}", start) - start, number);
      EXPECT_THAT(RecordFromJson(wrong), IsError(absl::StatusCode::kDataLoss, "whole number"))
          << field << " as " << number;
    }
  }
}

TEST(SessionRecordTest, ComesBackWithTheSameBits) {
  SessionRecord record{.name = "sessions/1",
                       .token = "secret",
                       .tenant = "lab",
                       .request_id = "id",
                       .spec_fingerprint = ~uint64_t{0} - 5,
                       .create_nanoseconds = 1'700'000'000'123'456'789,
                       .cell_elements = 256,
                       .step = 7,
                       .epoch = 3,
                       .spec = FullSpec()};
  const auto json = ToJson(record);
  ASSERT_OK(json);

  const auto back = RecordFromJson(*json);

  ASSERT_OK(back);
  EXPECT_EQ(*ToJson(*back), *json);
  EXPECT_EQ(back->spec_fingerprint, record.spec_fingerprint);
  EXPECT_EQ(back->create_nanoseconds, record.create_nanoseconds);
  EXPECT_EQ(back->spec.hyperparameters, record.spec.hyperparameters);
  EXPECT_EQ(back->spec.groups[1].hyperparameters, record.spec.groups[1].hyperparameters);
  EXPECT_EQ(back->spec.policy.global_norm_max, record.spec.policy.global_norm_max);
  EXPECT_EQ(back->spec.parameters[0].fan_in, 3);
  EXPECT_EQ(back->spec.durability, Durability::kStep);
}

TEST(SessionRecordTest, DamageIsAnErrorAndNoCrash) {
  const std::string json = *ToJson(SmallRecord());
  for (size_t size = 0; size < json.size(); ++size) {
    EXPECT_FALSE(RecordFromJson(json.substr(0, size)).ok());
  }
  EXPECT_FALSE(RecordFromJson("{\"name\": 1}").ok());
}

TEST(SessionRecordTest, ALastStepComesBackAndEveryTruncationIsFound) {
  LastStep last;
  last.plan.step = 9;
  last.plan.parameters = {{true, 4, 0.5F}, {false, 2, 1}};
  last.plan.groups = {{0.1, {0.1, 0.9}}};
  last.plan.loss = 0.25;
  last.plan.parameter_rms = {1, 2};
  last.fingerprints = {1, ~uint64_t{0}};
  last.outcome.number = 9;
  last.outcome.gradient_norm = 1.0 / 3;
  last.outcome.skipped = {1};
  last.outcome.takes_part = {true, false};
  last.outcome.rules = {{0.01, -0.1}};
  last.outcome.guard = {0.5, 2, 3};
  last.zero_non_finite = true;
  const std::vector<std::byte> bytes = ToBytes(last);

  const auto back = LastStepFromBytes(bytes);

  ASSERT_OK(back);
  EXPECT_EQ(ToBytes(*back), bytes);
  EXPECT_EQ(back->plan.parameters[0].gradient_scale, 0.5F);
  EXPECT_EQ(back->outcome.takes_part, last.outcome.takes_part);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(LastStepFromBytes(std::span(bytes).first(size)).ok()) << size;
  }
}

TEST(SessionRecordTest, ALoggedStepComesBackWithItsGradients) {
  const LoggedStep step{.request = {.number = 5,
                                    .loss = 1.5,
                                    .learning_rate_factors = {2},
                                    .learning_rates = {0.1},
                                    .parameter_rms = {1},
                                    .absent_parameters = {1}},
                        .previous_step = 4,
                        .spec = "{}"};
  std::vector<std::byte> bytes = ToBytes(step);
  bytes.push_back(std::byte{42});

  std::span<const std::byte> gradients;
  const auto back = LoggedStepFromBytes(bytes, gradients);

  ASSERT_OK(back);
  EXPECT_EQ(back->request.number, 5);
  EXPECT_EQ(back->request.absent_parameters, step.request.absent_parameters);
  EXPECT_EQ(back->previous_step, 4);
  ASSERT_EQ(gradients.size(), 1U);
  EXPECT_EQ(gradients[0], std::byte{42});
}

}  // namespace
}  // namespace mnemosyne::server
