// The backends that a contract test runs on: the CPU with each instruction set, and a GPU.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::kernels {

struct BackendParam {
  std::string device;
  std::string isa;

  // GoogleTest shows a parameter with this.
  friend void PrintTo(const BackendParam& param, std::ostream* out) {
    *out << param.device << " " << param.isa;
  }
};

// For the name of a test case.
inline std::string BackendParamName(const ::testing::TestParamInfo<BackendParam>& info) {
  return info.param.device == "cpu" ? "cpu_" + info.param.isa : "cuda";
}

inline const auto kAllBackends =
    ::testing::Values(BackendParam{"cpu", "baseline"}, BackendParam{"cpu", "avx2"},
                      BackendParam{"cpu", "avx512"}, BackendParam{"cuda:0", "auto"});

// A test on one backend; one that is not there is a skip, never a pass.
class BackendTest : public ::testing::TestWithParam<BackendParam> {
 protected:
  void SetUp() override {
    auto created = CreateBackend(GetParam().device, {.threads = 2, .isa = GetParam().isa});
    if (absl::IsFailedPrecondition(created.status())) GTEST_SKIP() << created.status();
    ASSERT_OK(created);
    backend_ = *std::move(created);
  }

  // Device memory with a copy of `host`.
  template <typename T>
  Buffer Put(const std::vector<T>& host) {
    auto buffer = backend_->Allocate(host.size() * sizeof(T));
    EXPECT_OK(buffer);
    EXPECT_OK(backend_->Upload(reinterpret_cast<const std::byte*>(host.data()), buffer->data(),
                               buffer->size()));
    return *std::move(buffer);
  }

  // A copy of device memory.
  template <typename T>
  std::vector<T> Get(const Buffer& buffer) {
    std::vector<T> host(buffer.size() / sizeof(T));
    EXPECT_OK(backend_->Download(buffer.data(), reinterpret_cast<std::byte*>(host.data()),
                                 buffer.size()));
    return host;
  }

  std::unique_ptr<Backend> backend_;
};

}  // namespace mnemosyne::kernels
