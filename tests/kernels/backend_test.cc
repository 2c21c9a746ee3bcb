#include "kernels/backend.h"

#include <cstdint>
#include <limits>

#include "tests/kernels/backend_param.h"

namespace mnemosyne::kernels {
namespace {

using testing::IsError;

using MemoryTest = BackendTest;

TEST_P(MemoryTest, AllocatesZeroedAlignedBytes) {
  for (const size_t size : {size_t{1}, size_t{63}, size_t{4096}, size_t{9'000'001}}) {
    auto buffer = backend_->Allocate(size);
    ASSERT_OK(buffer);
    EXPECT_EQ(buffer->size(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0U);
    EXPECT_EQ(Get<std::byte>(*buffer), std::vector<std::byte>(size));
  }
}

TEST_P(MemoryTest, AllocatesZeroedHostMemory) {
  auto buffer = backend_->AllocateHost(1000);

  ASSERT_OK(buffer);
  EXPECT_EQ(buffer->size(), 1000U);
  EXPECT_THAT(std::span(buffer->data(), 1000), ::testing::Each(std::byte{0}));
}

TEST_P(MemoryTest, AllocatesNothing) {
  auto buffer = backend_->Allocate(0);
  ASSERT_OK(buffer);
  EXPECT_TRUE(buffer->empty());
}

TEST_P(MemoryTest, SaysThatMemoryIsExhausted) {
  for (const size_t size :
       {std::numeric_limits<size_t>::max(), std::numeric_limits<size_t>::max() / 2}) {
    EXPECT_THAT(backend_->Allocate(size),
                IsError(absl::StatusCode::kResourceExhausted, "out of memory"));
  }
  EXPECT_OK(backend_->Allocate(64));  // The backend lives on.
}

TEST_P(MemoryTest, CopiesToTheDeviceAndBack) {
  const std::vector<int> host = {3, 1, 4, 1, 5};
  EXPECT_EQ(Get<int>(Put(host)), host);
  EXPECT_OK(backend_->Upload(nullptr, nullptr, 0));
  EXPECT_OK(backend_->Download(nullptr, nullptr, 0));
  EXPECT_OK(backend_->Synchronize());
}

TEST_P(MemoryTest, DescribesItself) {
  EXPECT_EQ(backend_->name(), GetParam().device);
  EXPECT_FALSE(backend_->description().empty());
  EXPECT_EQ(backend_->host_accessible(), GetParam().device == "cpu");
}

INSTANTIATE_TEST_SUITE_P(Backends, MemoryTest, kAllBackends, BackendParamName);

TEST(CreateBackendTest, RefusesADeviceItDoesNotKnow) {
  for (const char* device : {"", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:1x", "cpu:0"}) {
    EXPECT_THAT(CreateBackend(device),
                IsError(absl::StatusCode::kInvalidArgument, "unknown device"))
        << device;
  }
}

TEST(CreateBackendTest, SaysThatADeviceIsNotThere) {
  EXPECT_THAT(CreateBackend("cuda:4096"),
              IsError(absl::StatusCode::kFailedPrecondition, "device not available"));
}

TEST(CreateBackendTest, RefusesOptionsOutOfRange) {
  EXPECT_THAT(CreateBackend("cpu", {.threads = -1, .isa = "auto"}),
              IsError(absl::StatusCode::kInvalidArgument, "wrong number of threads"));
  EXPECT_THAT(CreateBackend("cpu", {.threads = 1, .isa = "sse"}),
              IsError(absl::StatusCode::kInvalidArgument, "unknown instruction set: sse"));
}

TEST(CreateBackendTest, UsesAllCoresByDefault) {
  auto backend = CreateBackend("cpu");
  ASSERT_OK(backend);
  EXPECT_THAT((*backend)->description(), ::testing::EndsWith("threads"));
}

}  // namespace
}  // namespace mnemosyne::kernels
