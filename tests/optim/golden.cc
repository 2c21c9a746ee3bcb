#include "tests/optim/golden.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/testing/model_files.h"

namespace mnemosyne::optim {

std::vector<float> CounterValues(uint32_t stream, size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    uint32_t x = 0x9E3779B9U * static_cast<uint32_t>(i) + 0x85EBCA6BU * (stream + 1);
    x = (x ^ (x >> 16)) * 0x85EBCA6BU;
    x = (x ^ (x >> 13)) * 0xC2B2AE35U;
    x = x ^ (x >> 16);
    values[i] = static_cast<float>(x >> 8) * 0x1p-23F - 1;
  }
  return values;
}

std::optional<GoldenVectors> GoldenVectors::Load(std::string_view name, std::string_view version) {
  const std::filesystem::path path =
      fmt::format("{}/tests/golden/{}_{}.safetensors", testing::SourceFolder(), name, version);
  if (!std::filesystem::exists(path)) return std::nullopt;
  auto file = Safetensors::Read(path, size_t{64} << 20);
  if (!file.ok()) {
    ADD_FAILURE() << file.status();
    return std::nullopt;
  }
  GoldenVectors golden(*std::move(file));
  const auto plan = nlohmann::json::parse(golden.file_.metadata().at("plan"));
  golden.steps_ = plan.at("steps");
  golden.streams_ = plan.at("streams");
  for (const auto& spec : plan.at("specs")) {
    golden.parameters_.push_back({.name = spec.at("name"), .shape = spec.at("shape")});
  }
  return golden;
}

std::vector<float> GoldenVectors::Gradient(int64_t step, size_t parameter) const {
  return CounterValues(static_cast<uint32_t>(streams_ * step) + static_cast<uint32_t>(parameter),
                       *ElementCount(parameters_[parameter].shape));
}

std::vector<float> GoldenVectors::Update(int64_t step, size_t parameter) const {
  const std::string name = fmt::format("update.{}.{}", step, parameters_[parameter].name);
  const SafetensorsTensor* const tensor = file_.Find(name);
  if (tensor == nullptr) {
    ADD_FAILURE() << "no tensor " << name;
    return {};
  }
  return *file_.Floats(*tensor);
}

double RelativeDistance(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return difference == 0 ? 0 : std::sqrt(difference / size);
}

}  // namespace mnemosyne::optim
