// The one place that knows which backends this build has.
#include <charconv>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
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

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(std::string_view device,
                                                       const CpuOptions& options) {
  constexpr std::string_view kCudaPrefix = "cuda:";
  if (device == "cpu") return cpu::CpuBackend::Create(options);
  if (device.substr(0, kCudaPrefix.size()) == kCudaPrefix) {
    const std::string_view digits = device.substr(kCudaPrefix.size());
    int ordinal = -1;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
    const bool whole = error == std::errc() && end == digits.data() + digits.size();
    if (whole && ordinal >= 0) return CreateCudaBackend(ordinal);
  }
  return InvalidArgument("unknown device: {}, expected cpu or cuda:<ordinal>", device);
}

}  // namespace mnemosyne::kernels
