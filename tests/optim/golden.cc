#include "tests/optim/golden.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
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

namespace {

// A row-major tensor of `shape`, with its axes reversed.
std::vector<float> Transposed(const std::vector<int64_t>& shape, const std::vector<float>& values) {
  std::vector<float> result(values.size());
  std::vector<int64_t> place(shape.size());
  for (const float value : values) {
    size_t index = 0;
    for (size_t axis = shape.size(); axis-- > 0;) {
      index = index * static_cast<size_t>(shape[axis]) + static_cast<size_t>(place[axis]);
    }
    result[index] = value;
    for (size_t axis = shape.size(); axis-- > 0 && ++place[axis] == shape[axis];) place[axis] = 0;
  }
  return result;
}

std::vector<int64_t> Reversed(std::vector<int64_t> shape) {
  std::reverse(shape.begin(), shape.end());
  return shape;
}

}  // namespace

std::optional<GoldenVectors> GoldenVectors::Load(std::string_view name, std::string_view version,
                                                 std::string_view plan) {
  const std::filesystem::path path =
      fmt::format("{}/tests/golden/{}_{}{}{}.safetensors", testing::SourceFolder(), name, version,
                  plan.empty() ? "" : "_", plan);
  if (!std::filesystem::exists(path)) return std::nullopt;
  auto file = Safetensors::Read(path, size_t{64} << 20);
  if (!file.ok()) {
    ADD_FAILURE() << file.status();
    return std::nullopt;
  }
  GoldenVectors golden(*std::move(file));
  const auto table = nlohmann::json::parse(golden.file_.metadata().at("plan"));
  golden.steps_ = table.at("steps");
  golden.streams_ = table.at("streams");
  golden.chunk_size_ = table.at("chunk_size");
  golden.stride_ = table.at("stride");
  for (const auto& spec : table.at("specs")) {
    ParameterSpec parameter;
    parameter.name = spec.at("name");
    parameter.shape = spec.at("shape").get<std::vector<int64_t>>();
    parameter.fan_in = spec.at("fan_in");
    parameter.fan_out = spec.at("fan_out");
    golden.transposed_.push_back(spec.at("transposed"));
    if (golden.transposed_.back()) parameter.shape = Reversed(parameter.shape);
    golden.parameters_.push_back(std::move(parameter));
  }
  return golden;
}

std::vector<float> GoldenVectors::Gradient(int64_t step, size_t parameter) const {
  const std::vector<int64_t>& shape = parameters_[parameter].shape;
  const auto stream = streams_ * static_cast<uint32_t>(step) + static_cast<uint32_t>(parameter);
  std::vector<float> values = CounterValues(stream, *ElementCount(shape));
  return transposed_[parameter] ? Transposed(Reversed(shape), values) : values;
}

std::vector<float> GoldenVectors::Update(int64_t step, size_t parameter) const {
  if (stride_ == 0) {
    const std::vector<float> update =
        Tensor(fmt::format("update.{}.{}", step, parameters_[parameter].name));
    return Sample(parameter, transposed_[parameter]
                                 ? Transposed(Reversed(parameters_[parameter].shape), update)
                                 : update);
  }
  const std::vector<float> joined = Tensor(fmt::format("update.{}", step));
  const auto kept = [&](size_t i) {
    return (*ElementCount(parameters_[i].shape) + stride_ - 1) / stride_;
  };
  size_t start = 0;
  for (size_t i = 0; i < parameter; ++i) start += kept(i);
  const auto first = joined.begin() + static_cast<std::ptrdiff_t>(start);
  return {first, first + static_cast<std::ptrdiff_t>(kept(parameter))};
}

std::vector<float> GoldenVectors::Sample(size_t parameter, const std::vector<float>& update) const {
  const std::vector<float> values =
      transposed_[parameter] ? Transposed(parameters_[parameter].shape, update) : update;
  std::vector<float> sampled;
  for (size_t i = 0; i < values.size(); i += std::max<size_t>(stride_, 1)) {
    sampled.push_back(values[i]);
  }
  return sampled;
}

float GoldenVectors::Keep(int64_t step, size_t parameter) const {
  if (stride_ == 0) {
    return Tensor(fmt::format("keep.{}.{}", step, parameters_[parameter].name)).at(0);
  }
  return Tensor(fmt::format("keep.{}", step)).at(parameter);
}

std::vector<float> GoldenVectors::Tensor(const std::string& name) const {
  const SafetensorsTensor* const tensor = file_.Find(name);
  if (tensor == nullptr) {
    ADD_FAILURE() << "no tensor " << name;
    return std::vector<float>(1);
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
