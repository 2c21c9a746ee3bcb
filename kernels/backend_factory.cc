// The one place that knows which backends this build has.
#include <charconv>
#include <optional>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#if MNEMOSYNE_TEST_DEVICES
#include "kernels/cpu/apart_backend.h"
#endif
#if MNEMOSYNE_CUDA
#include "kernels/cuda/cuda_backend.h"
#endif

namespace mnemosyne::kernels {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend([[maybe_unused]] int ordinal) {
#if MNEMOSYNE_CUDA
  return cuda::CudaBackend::Create(ordinal);
#else
  return FailedPrecondition("device not available: this build has no CUDA backend");
#endif
}

// The number at the end of `<prefix><number>`; nothing if `device` is anything else.
std::optional<int> NumberAfter(std::string_view prefix, std::string_view device) {
  if (!device.starts_with(prefix)) return std::nullopt;
  const std::string_view digits = device.substr(prefix.size());
  int number = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  return whole && number >= 0 ? std::optional(number) : std::nullopt;
}

}  // namespace

std::vector<std::string> GpuNames() {
  std::vector<std::string> names;
#if MNEMOSYNE_CUDA
  for (int i = 0; i < cuda::CudaBackend::Count(); ++i) names.push_back(fmt::format("cuda:{}", i));
#endif
  return names;
}

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(std::string_view device,
                                                       const CpuOptions& options) {
  if (device == "cpu") return cpu::CpuBackend::Create(options);
  if (const auto ordinal = NumberAfter("cuda:", device)) return CreateCudaBackend(*ordinal);
#if MNEMOSYNE_TEST_DEVICES
  if (const auto mebibytes = NumberAfter("apart:", device)) {
    return cpu::ApartBackend::Create(*mebibytes, options);
  }
  if (const auto uploads = NumberAfter("failing:", device)) {
    return cpu::ApartBackend::CreateFailing(*uploads, options);
  }
#if MNEMOSYNE_CUDA
  if (const auto uploads = NumberAfter("trapping:", device)) {
    return cuda::CudaBackend::CreateTrapping(*uploads);
  }
#endif
#endif
  return InvalidArgument("unknown device: {}, expected cpu or cuda:<ordinal>", device);
}

}  // namespace mnemosyne::kernels
