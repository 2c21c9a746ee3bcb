// What the tests of the client share.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "mnemosyne/client.h"
#include "tests/client/fake_daemon.h"

namespace mnemosyne {

MATCHER(IsOk, "") {
  if constexpr (requires { arg.status(); }) {
    if (!arg.ok()) *result_listener << arg.status();
  } else {
    if (!arg.ok()) *result_listener << arg;
  }
  return arg.ok();
}

MATCHER_P2(Fails, code, reason, "") {
  absl::Status status;
  if constexpr (requires { arg.status(); }) {
    status = arg.status();
  } else {
    status = arg;
  }
  *result_listener << status;
  return status.code() == code && ErrorReason(status) == std::string_view(reason);
}

using Model = std::vector<std::vector<float>>;

inline std::vector<std::span<const float>> Views(const Model& model) {
  return {model.begin(), model.end()};
}

inline std::vector<std::span<float>> MutableViews(Model& model) {
  return {model.begin(), model.end()};
}

// A model of tensors of these sizes whose elements all differ.
inline Model MakeModel(const std::vector<size_t>& sizes) {
  Model model;
  float value = 0;
  for (const size_t size : sizes) {
    auto& tensor = model.emplace_back(size);
    for (float& element : tensor) element = value += 0.5F;
  }
  return model;
}

inline v1::SessionSpec MakeSpec(const std::vector<size_t>& sizes) {
  v1::SessionSpec spec;
  spec.set_optimizer("sgd");
  for (const size_t size : sizes) {
    auto* parameter = spec.add_parameters();
    parameter->set_name("parameter" + std::to_string(spec.parameters_size()));
    parameter->add_shape(static_cast<int64_t>(size));
  }
  return spec;
}

// Short waits, so that a test of many tries is fast.
inline RetryPolicy QuickRetry() {
  RetryPolicy retry;
  retry.initial_delay = std::chrono::milliseconds(5);
  retry.delay_max = std::chrono::milliseconds(50);
  return retry;
}

inline std::unique_ptr<Client> ConnectTo(const FakeDaemon& daemon) {
  ClientOptions options;
  options.retry = QuickRetry();
  auto client = Client::Connect(daemon.address(), options);
  EXPECT_THAT(client, IsOk());
  return *std::move(client);
}

}  // namespace mnemosyne
